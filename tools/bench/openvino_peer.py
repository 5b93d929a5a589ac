#!/usr/bin/env python3
"""OpenVINO's side of `cargo xtask bench-peers`: one measurement, its speeds as JSON.

    pip install openvino-genai==2026.4.1.0
    openvino_peer.py MODEL.gguf prefill --tokens 512 [--threads 2] [--repetitions 3]
    openvino_peer.py MODEL.gguf decode --tokens 64 [--depth 4096] [--batch 16]

Its settings are its own but for the KV cache, which is f16 as the others' (8 bits by itself, and
slower here). It is a pipeline from tokens to tokens, so the time of a prompt has one greedy token in
it, and that of decoding is what follows the first token.
"""
import argparse
import json
import sys
import time

import numpy
import openvino
import openvino_genai as genai

# Token ids that any vocabulary of the models measured has.
VOCAB = 30_000


def seconds(
    pipeline: genai.LLMPipeline, seed: int, prompt: int, tokens: int, batch: int
) -> tuple[float, float]:
    """Seconds to the first token of each sequence, and from there to the last."""
    ids = numpy.random.default_rng(seed).integers(10, VOCAB, (batch, prompt))
    inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = tokens
    config.do_sample, config.ignore_eos, config.apply_chat_template = False, True, False
    start = time.perf_counter()
    result = pipeline.generate(inputs, config)
    whole = time.perf_counter() - start
    if any(len(sequence) != tokens for sequence in result.tokens):
        sys.exit(f"not {tokens} tokens: {[len(sequence) for sequence in result.tokens]}")
    first = result.perf_metrics.get_ttft().mean / 1000
    return first, whole - first


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("test", choices=["prefill", "decode"])
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--depth", type=int, default=0)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repetitions", type=int, default=3)
    a = p.parse_args()
    settings = {"INFERENCE_NUM_THREADS": a.threads, "KV_CACHE_PRECISION": "f16"}
    pipeline = genai.LLMPipeline(a.model, "CPU", **settings)
    speeds = []
    for repetition in range(a.repetitions + 1):
        if a.test == "prefill":
            first, _ = seconds(pipeline, repetition, a.tokens, 1, a.batch)
            speeds.append(a.tokens * a.batch / first)
        else:
            _, rest = seconds(pipeline, repetition, max(a.depth, 1), a.tokens + 1, a.batch)
            speeds.append(a.tokens * a.batch / rest)
    print(json.dumps({"version": openvino.__version__, "tps": speeds[1:]}))


if __name__ == "__main__":
    main()
