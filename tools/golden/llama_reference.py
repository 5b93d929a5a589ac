#!/usr/bin/env python3
"""Reference values from llama.cpp: logits, greedy text and perplexity, as JSON golden files.

    pip install llama-cpp-python==0.3.36 numpy
    llama_reference.py logits     MODEL.gguf OUT.json [--tokens TEXT]   # prompts of 1, 17, 300, 1200 tokens
    llama_reference.py greedy     MODEL.gguf OUT.json                   # ten prompts, 64 tokens each
    llama_reference.py perplexity MODEL.gguf TEXT --context 512

The logits of a prompt are those after its last token: every STRIDE-th of the vocabulary and the
64 highest, which is enough for a cosine and a top-1 and keeps the files small. Prompts are the
first tokens of tom_sawyer.txt, or pseudo-random ids where the model's vocabulary is synthetic.
"""
import argparse
import json
import math
import pathlib

import numpy as np
from llama_cpp import Llama

HERE = pathlib.Path(__file__).parent
LENGTHS = (1, 17, 300, 1200)
SAMPLED = 2048
PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a little",
    "def fibonacci(n):\n",
    "The three laws of thermodynamics are",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 2, 3, 4, 5,",
    "Wasser besteht aus",
    "El perro y el gato",
    "Q: What is the largest planet?\nA:",
    "To bake a loaf of bread you need",
)


def open_model(path: str, context: int) -> Llama:
    # Flash attention is what llama.cpp's own programs choose where they can.
    return Llama(path, n_ctx=context, n_batch=512, n_threads=2, logits_all=True, flash_attn=True,
                 verbose=False)


def text_tokens(llm: Llama, text: str, bos: bool = True) -> list[int]:
    return llm.tokenize(text.encode(), add_bos=bos, special=False)


def logits(a: argparse.Namespace) -> None:
    llm = open_model(a.model, 2048)
    if llm.n_vocab() < 10_000:
        ids = [(i * 7919 + i * i * 31 + 5) % llm.n_vocab() for i in range(max(LENGTHS))]
    else:
        ids = text_tokens(llm, (HERE / "tom_sawyer.txt").read_text())
    stride = max(1, llm.n_vocab() // SAMPLED)
    prompts = []
    for n in LENGTHS:
        llm.reset()
        llm.eval(ids[:n])
        row = np.array(llm.scores[n - 1], dtype=np.float64)
        top = np.argsort(-row, kind="stable")[:64]
        prompts.append({
            "tokens": ids[:n],
            "top": [int(t) for t in top],
            "top_logits": [round(float(row[t]), 4) for t in top],
            "sampled_logits": [round(float(v), 3) for v in row[::stride]],
        })
    out = {"made_by": "tools/golden/llama_reference.py logits", "stride": stride, "prompts": prompts}
    pathlib.Path(a.out).write_text(json.dumps(out, separators=(",", ":")) + "\n")


def greedy(a: argparse.Namespace) -> None:
    llm = open_model(a.model, 512)
    runs = []
    for prompt in PROMPTS:
        tokens = text_tokens(llm, prompt)
        start = len(tokens)
        # With each step: the two highest logits, so that a divergence can be judged by its gap.
        steps = []
        llm.reset()
        llm.eval(tokens)
        for _ in range(64):
            row = llm.scores[llm.n_tokens - 1]
            first, second = (int(t) for t in np.argsort(-row, kind="stable")[:2])
            gap = float(row[first] - row[second])
            steps.append([first, second, round(gap, 4)])
            llm.eval([first])
        runs.append({"prompt": prompt, "prompt_tokens": tokens[:start], "steps": steps})
    out = {"made_by": "tools/golden/llama_reference.py greedy", "runs": runs}
    pathlib.Path(a.out).write_text(json.dumps(out, separators=(",", ":")) + "\n")


def perplexity(a: argparse.Namespace) -> None:
    llm = open_model(a.model, a.context)
    bos = llm.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    ids = text_tokens(llm, pathlib.Path(a.text).read_text(), bos)
    n, nll, count = a.context, 0.0, 0
    for start in range(0, len(ids) - n + 1, n):
        window = ids[start:start + n]
        if bos:
            window[0] = llm.token_bos()
        llm.reset()
        llm.eval(window)
        for j in range(n // 2, n - 1):
            row = llm.scores[j].astype(np.float64)
            top = row.max()
            nll -= row[window[j + 1]] - top - math.log(np.exp(row - top).sum())
            count += 1
    print(f"{len(ids)} tokens, {count} scored")
    print(f"perplexity {math.exp(nll / count):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    for name, run in (("logits", logits), ("greedy", greedy)):
        p = sub.add_parser(name)
        p.add_argument("model")
        p.add_argument("out")
        p.set_defaults(run=run)
    p = sub.add_parser("perplexity")
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--context", type=int, default=512)
    p.set_defaults(run=perplexity)
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
