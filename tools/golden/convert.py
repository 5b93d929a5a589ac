"""Ferrum's converter beside llama.cpp's quantiser, on one real model.

    pip install llama-cpp-python==0.3.36 gguf numpy
    python tools/golden/convert.py FERRUM FOLDER WORK [MIX...]

FOLDER is a folder of safetensors (`hf_folder.py` makes one of SmolLM2). It is converted to bf16 by
Ferrum; from that file both make each mix. Printed for each: whether all tensors have the same types,
the error of all weights, Ferrum's over llama.cpp's, both perplexities on tom_sawyer.txt, measured by
Ferrum, and whether llama.cpp and Ferrum write the same text with Ferrum's file.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from llama_c import Model, quantize
from mixes import MIXES

TEXT = Path(__file__).parent / "tom_sawyer.txt"
PROMPT = "Once upon a time there was a little"
WINDOWS = 8


def convert(ferrum, source, target, mix):
    start = time.time()
    command = [ferrum, "convert", source, target, "--quant", mix, "--force", "-q"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return time.time() - start


def perplexity(ferrum, model):
    command = [ferrum, "perplexity", model, TEXT, "--context", "512", "--windows", str(WINDOWS), "--json"]
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout
    return json.loads(out)["perplexity"]


def tensors(path):
    return {t.name: t for t in GGUFReader(path).tensors}


def values(tensor):
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def errors(source, ours, theirs):
    """Squared errors of all quantised weights."""
    sums = np.zeros(2)
    for name, tensor in tensors(source).items():
        if ours[name].tensor_type == tensor.tensor_type:
            continue
        exact = values(tensor)
        sums += [np.square(values(t[name]) - exact).sum() for t in (ours, theirs)]
    return sums


def texts(ferrum, model):
    """The greedy continuations of Ferrum and llama.cpp."""
    command = [ferrum, "run", model, "--raw", PROMPT, "--temperature", "0", "-n", "48", "-q"]
    ours = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return ours.strip(), Model(model).greedy(PROMPT, 48).strip()


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def main():
    ferrum, folder, work = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    source = work / "bf16.gguf"
    print(f"bf16: {convert(ferrum, folder, source, 'bf16'):.1f} s, perplexity {perplexity(ferrum, source):.4f}")
    for mix in sys.argv[4:] or ["q8_0", "q4_k_m"]:
        ours, theirs = work / f"ferrum-{mix}.gguf", work / f"llama-{mix}.gguf"
        seconds = convert(ferrum, folder, ours, mix)
        start = time.time()
        quantize(source, theirs, MIXES[mix])
        other = time.time() - start
        a, b = tensors(ours), tensors(theirs)
        differing = sorted(n for n in b if n not in a or a[n].tensor_type != b[n].tensor_type)
        error = errors(source, a, b)
        p = perplexity(ferrum, ours), perplexity(ferrum, theirs)
        print(f"{mix}: {len(b)} tensors, of other types: {differing or 'none'}; "
              f"error {np.sqrt(error[0] / error[1]):.4f} of llama.cpp's; "
              f"perplexity {p[0]:.4f} and {p[1]:.4f} ({100 * (p[0] / p[1] - 1):+.2f} %); "
              f"{seconds:.1f} s and {other:.1f} s")
        first, second = texts(ferrum, ours)
        print(f"  texts: {'the same' if first == second else f'same for {common(first, second)} characters'}"
              f" of {len(second)}")


main()
