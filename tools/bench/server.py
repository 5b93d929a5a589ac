#!/usr/bin/env python3
"""`ferrum serve` beside llama.cpp's server, taking turns, under the same loads.

    pip install xllamacpp          # llama.cpp's server, as a library
    server.py --file MODEL.gguf [--ferrum target/release/ferrum] [--threads 2] [--rounds 3]

Each round starts a server, runs every load with `ferrum bench serve`, stops it, and goes on with
the other one. Prints medians over the rounds and their ratios as a table.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

SLOTS = 8
CONTEXT = 8192  # of each slot
PORT = 8093

LOADS = {
    "8 clients": ["-c", "8", "-n", "32", "--prompt-words", "64", "--max-tokens", "64"],
    "shared 600 words": ["-c", "12", "-n", "12", "--shared-words", "600", "--prompt-words", "32",
                         "--max-tokens", "32"],
    "4000 words alone": ["-c", "1", "-n", "1", "--prompt-words", "4000", "--max-tokens", "8"],
    "4 streams, intruder": ["-c", "4", "-n", "4", "--prompt-words", "32", "--max-tokens", "1200",
                            "--intruder-words", "4000"],
}


def serve_llama(a):
    """Runs until it is killed."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = a.file
    p.n_ctx, p.n_parallel = SLOTS * CONTEXT, SLOTS
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = a.threads
    p.n_gpu_layers = 0
    p.hostnames, p.port = ["127.0.0.1"], PORT
    server = xllamacpp.Server(p)
    signal.pause()
    del server


def start(a, engine):
    if engine == "llama":
        command = [sys.executable, __file__, "--file", a.file, "--threads", str(a.threads), "--llama"]
    else:
        command = [a.ferrum, "serve", a.file, "--port", str(PORT), "--threads", str(a.threads),
                   "--max-seqs", str(SLOTS), "--context", str(CONTEXT)] + a.serve_flag
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).read()
            return server
        except OSError:
            time.sleep(0.1)
    server.kill()
    sys.exit(f"{engine} does not start: {' '.join(command)}")


def measure(a, seed):
    """The figures of one server under each load."""
    figures = {}
    for name, flags in LOADS.items():
        command = [a.ferrum, "bench", "serve", "--url", f"http://127.0.0.1:{PORT}", "--json",
                   "--seed", str(seed)] + flags
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        r = json.loads(done.stdout)
        ttft, itl = r["ttft_ms"], r["itl_ms"] or {}
        figures[name] = {
            "tokens/s": r["tokens_per_s"], "TTFT p50 ms": ttft["p50"], "TTFT p99 ms": ttft["p99"],
            "gap p50 ms": itl.get("p50"), "largest gap ms": itl.get("max"),
            "intruder's TTFT ms": r["intruder_ttft_ms"],
        }
    return figures


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--file", required=True)
    p.add_argument("--ferrum", default="target/release/ferrum")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--serve-flag", action="append", default=[], help="a further flag of ferrum serve")
    p.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    a.file = os.path.abspath(a.file)
    if a.llama:
        return serve_llama(a)
    runs = {"ferrum": [], "llama": []}
    for seed in range(1, a.rounds + 1):
        for engine, figures in runs.items():
            server = start(a, engine)
            try:
                figures.append(measure(a, seed))
            finally:
                server.kill()
                server.wait()
            print(engine, json.dumps(figures[-1]), file=sys.stderr, flush=True)
    print("| load | | Ferrum | llama.cpp | ratio |\n|---|---|---|---|---|")
    for load in LOADS:
        for figure in runs["ferrum"][0][load]:
            values = [[r[load][figure] for r in runs[engine]] for engine in runs]
            if None in values[0] + values[1]:
                continue
            ours, theirs = map(statistics.median, values)
            ratio = f"{ours / theirs:.2f}" if theirs else ""
            print(f"| {load} | {figure} | {ours:.1f} | {theirs:.1f} | {ratio} |")


main()
