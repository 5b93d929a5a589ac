#!/usr/bin/env python3
"""Quantise a GGUF file with llama.cpp's quantiser, as its own `llama-quantize` does.

    pip install llama-cpp-python==0.3.36
    quantize.py IN.gguf OUT.gguf q4_k_m [--threads 2]

The types are llama.cpp's names in lower case (`q4_0`, `q8_0`, `q4_k_m`, `q6_k`, `iq4_xs`, …).
"""
import argparse
import ctypes
import sys

import llama_cpp


def file_types() -> dict[str, int]:
    """Names of llama.cpp's file types, from its header: `LLAMA_FTYPE_MOSTLY_Q4_K_M` is `q4_k_m`."""
    prefix = "LLAMA_FTYPE_MOSTLY_"
    names = (n for n in dir(llama_cpp) if n.startswith(prefix))
    return {n.removeprefix(prefix).lower(): getattr(llama_cpp, n) for n in names}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument("type", choices=sorted(file_types()))
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_types()[a.type]
    params.nthread = a.threads
    failed = llama_cpp.llama_model_quantize(a.source.encode(), a.target.encode(), ctypes.byref(params))
    if failed:
        sys.exit(f"llama.cpp could not quantise {a.source}: error {failed}")


if __name__ == "__main__":
    main()
