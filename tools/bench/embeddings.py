#!/usr/bin/env python3
"""`ferrum embed` beside sentence-transformers, taking turns, on the same texts and threads.

    pip install sentence-transformers
    embeddings.py --folder FOLDER [--ferrum target/release/ferrum] [--texts 1000] [--threads 2] [--rounds 5]

FOLDER is the model as it was published, such as what `ferrum pull minilm` gets. Ferrum's time is
that of the whole command, with loading the model and writing the vectors; the other's is that of
`encode` alone, after a first call.
"""
import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time

import numpy as np

WORDS = ("river stone garden winter letter bread window forest music paper summer bridge island silver "
         "market village candle shadow mountain harbour teacher engine number answer morning evening").split()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", required=True)
    p.add_argument("--ferrum", default="target/release/ferrum")
    p.add_argument("--texts", type=int, default=1000)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(a.threads)
    model = SentenceTransformer(a.folder, device="cpu")
    r = random.Random(1)
    texts = [" ".join(r.choice(WORDS) for _ in range(r.randint(4, 20))) for _ in range(a.texts)]
    model.encode(texts[:64])
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        source, result = os.path.join(folder, "texts.txt"), os.path.join(folder, "vectors.npy")
        with open(source, "w") as f:
            f.writelines(text + "\n" for text in texts)
        for _ in range(a.rounds):
            begin = time.perf_counter()
            with open(source) as f:
                subprocess.run([a.ferrum, "embed", a.folder, "--threads", str(a.threads), "--output", result],
                               stdin=f, check=True)
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            wanted = model.encode(texts, normalize_embeddings=True)
            theirs.append(time.perf_counter() - begin)
        got = np.load(result)
    cosine = float((got * wanted).sum(1).min())
    ratios = [b / a for a, b in zip(ours, theirs)]
    print(f"{a.texts} texts, {a.threads} threads: Ferrum {a.texts / statistics.median(ours):.0f} texts/s, "
          f"sentence-transformers {a.texts / statistics.median(theirs):.0f} texts/s")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), least cosine {cosine:.7f}")


main()
