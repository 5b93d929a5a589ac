#!/usr/bin/env python3
"""Ferrum beside llama.cpp on the same file: prefill and decode speed, as ratios.

    pip install llama-cpp-python==0.3.36
    cargo build --release
    llama_ratio.py MODEL.gguf [--prefill 512] [--decode 64] [--threads 2] [--rounds 5]

The engines take turns, one process a round, so that a machine that drifts drifts for both. The
last lines give the median, the least and the greatest ratio of Ferrum to llama.cpp.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

FERRUM = pathlib.Path(__file__).parents[2] / "target/release/ferrum"


def llama_once(a: argparse.Namespace) -> dict:
    """Runs in a process of its own: `llama_ratio.py --llama …`."""
    from llama_cpp import Llama

    llm = Llama(a.model, n_ctx=a.prefill + a.decode + 8, n_batch=512, n_threads=a.threads,
                n_threads_batch=a.threads, verbose=False)
    ids = [(i * 7919 + 11) % llm.n_vocab() for i in range(a.prefill)]
    llm.eval(ids[:32])
    llm.reset()
    t0 = time.perf_counter()
    llm.eval(ids)
    t1 = time.perf_counter()
    # Decode as `ferrum bench` does: from an empty context.
    llm.reset()
    llm.eval(ids[:1])
    t2 = time.perf_counter()
    for i in range(a.decode):
        llm.eval([ids[i % len(ids)]])
    t3 = time.perf_counter()
    return {"prefill_tps": a.prefill / (t1 - t0), "decode_tps": a.decode / (t3 - t2)}


def run(command: list[str]) -> dict:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--prefill", type=int, default=512)
    p.add_argument("--decode", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--ferrum", default=str(FERRUM))
    p.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.llama:
        print(json.dumps(llama_once(a)))
        return
    sizes = ["--prefill", str(a.prefill), "--decode", str(a.decode), "--threads", str(a.threads)]
    rounds = []
    for i in range(a.rounds):
        ours = run([a.ferrum, "bench", a.model, *sizes, "--json"])
        theirs = run([sys.executable, __file__, "--llama", a.model, *sizes])
        rounds.append((ours, theirs))
        print(f"round {i + 1}: ferrum {ours['prefill_tps']:.0f} | {ours['decode_tps']:.1f}  "
              f"llama.cpp {theirs['prefill_tps']:.0f} | {theirs['decode_tps']:.1f} tokens/s", flush=True)
    for what in ("prefill_tps", "decode_tps"):
        ratios = [ours[what] / theirs[what] for ours, theirs in rounds]
        print(f"{what[:-4]}: {statistics.median(ratios):.2f}x of llama.cpp "
              f"(min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()
