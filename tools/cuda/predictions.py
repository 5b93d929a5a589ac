#!/usr/bin/env python3
"""Writes what the CUDA kernels should take on an H100, from bytes, operations and its data sheet.

    tools/cuda/predictions.py > crates/ferrum-kernels/cuda/PREDICTIONS.md
"""

MEMORY = 3.35e12
# `dp4a`: eight operations, taken to be as fast as other 32-bit integer products, 64 a clock in each of
# 132 multiprocessors.
PEAKS = {"int8": 1979e12, "fp8": 1979e12, "f16": 989e12, "f32": 67e12, "dp4a": 8 * 64 * 132 * 1.83e9}

HIDDEN, FFN, VOCABULARY, LAYERS = 4096, 14336, 128256, 32
HEADS, KV_HEADS, DIM = 32, 8, 128
Q4_K, Q6_K, Q4_K_M = 4.5 / 8, 6.5625 / 8, 4.85 / 8  # bytes of a weight
CODES, F16_TERMS, BF16_TERMS, ROUNDED = 1.25, 4.5, 6.5, 2  # bytes of an activation in a product's form

HEADER = """\
# What the kernels should take on an H100

Written by `tools/cuda/predictions.py`. Bytes that a kernel must move to or from memory and operations
that it must do at reference shapes (those of Llama 3 8B), and the time that an H100 SXM's data sheet
allows for the larger of the two: 3.35 TB/s of memory, 1979 TOPS or TFLOPS of 8-bit and 989 TFLOPS of 16-bit
tensor cores, 67 TFLOPS of f32, and 124 TOPS of `dp4a` at 64 a clock of a multiprocessor. A multiply-add
is two operations; terms of an activation or a weight that is split count each. **No card has run any of it**: these are limits, not measurements. A launch
takes some microseconds by itself, which is what counts for the small ones, and the reason for
recordings; and `mma.sync`, which the kernels use, does not reach the data sheet's tensor-core figures
from compute capability 9.0 on.

`cargo xtask gpu-check` times them on a card. What they take of registers and shared memory is in
[resources.tsv](resources.tsv).

| kernel | shape | MB | Gop | limit | us |
|---|---|---|---|---|---|
"""


def product(tokens, rows, weight, form, terms=1):
    """Bytes and operations of a linear with `rows` x HIDDEN weights."""
    moved = rows * HIDDEN * weight + tokens * (HIDDEN * form + rows * 4)
    return moved, 2 * terms * tokens * rows * HIDDEN


def decode(tokens, context, value_bytes, states):
    """Bytes and operations of attention by `tokens` sequences over `context` positions."""
    moved = tokens * (2 * context * KV_HEADS * DIM * value_bytes + states)
    return moved, 4 * tokens * context * HEADS * DIM


def kernels():
    """Kernel, shape, (bytes, operations), and which peak counts."""
    row = 512 * HIDDEN
    yield "gemv_codes Q4_K", "1 token, 4096 x 4096", product(1, HIDDEN, Q4_K, CODES), "dp4a"
    yield "gated_gemv Q4_K", "1 token, 2 of 14336 x 4096", product(1, 2 * FFN, Q4_K, CODES), "dp4a"
    yield "gemv_codes Q6_K", "1 token, head 128256 x 4096", product(1, VOCABULARY, Q6_K, CODES), "dp4a"
    yield "gemv_codes Q4_K", "8 tokens, 4096 x 4096", product(8, HIDDEN, Q4_K, CODES), "dp4a"
    yield "gemv_floats BF16", "1 token, 4096 x 4096", product(1, HIDDEN, 2, 4), "f32"
    yield "gemm_codes Q4_K", "64 tokens, 14336 x 4096", product(64, FFN, Q4_K, CODES), "int8"
    yield "gemm_codes Q4_K", "512 tokens, 4096 x 4096", product(512, HIDDEN, Q4_K, CODES), "int8"
    yield "gemm_codes Q4_K", "2048 tokens, 14336 x 4096", product(2048, FFN, Q4_K, CODES), "int8"
    yield "gemm_halves F16 (2 terms)", "512 tokens, 4096 x 4096", product(512, HIDDEN, 2, F16_TERMS, 2), "f16"
    yield "gemm_halves BF16 (3 terms)", "512 tokens, 4096 x 4096", product(512, HIDDEN, 2, BF16_TERMS, 3), "f16"
    yield "cuBLASLt BF16", "512 tokens, 4096 x 4096", product(512, HIDDEN, 2, ROUNDED), "f16"
    yield "cuBLASLt BF16", "2048 tokens, 14336 x 4096", product(2048, FFN, 2, ROUNDED), "f16"
    yield "gemv_floats E4M3", "1 token, 4096 x 4096", product(1, HIDDEN, 1, 4), "f32"
    yield "gemm_halves E4M3 (2 terms)", "64 tokens, 4096 x 4096", product(64, HIDDEN, 1, F16_TERMS, 2), "f16"
    yield "cuBLASLt E4M3", "512 tokens, 4096 x 4096", product(512, HIDDEN, 1, 1), "fp8"
    yield "cuBLASLt E4M3", "2048 tokens, 14336 x 4096", product(2048, FFN, 1, 1), "fp8"
    yield "quantize", "512 tokens of 4096", (row * (4 + CODES), 0), "f32"
    yield "split F16", "512 tokens of 4096", (row * (4 + F16_TERMS), 0), "f32"
    yield "scale_rows", "512 tokens, 14336 rows", (512 * FFN * 8, 0), "f32"
    yield "round_rows F16", "512 tokens of 4096", (row * (4 + ROUNDED), 0), "f32"
    yield "round_rows E4M3", "512 tokens of 4096", (row * (4 + 1), 0), "f32"
    yield "embed Q4_K", "512 tokens of 4096", (row * (Q4_K + 4), 0), "f32"
    yield "rms_norm", "512 tokens of 4096", (row * 8, 0), "f32"
    yield "layer_norm", "512 tokens of 4096", (row * 8, 0), "f32"
    yield "rope", "512 tokens, 32 + 8 heads of 128", (512 * (HEADS + KV_HEADS) * DIM * 8, 0), "f32"
    yield "gate", "512 tokens of 14336", (512 * FFN * 12, 0), "f32"
    yield "activate", "512 tokens of 14336", (512 * FFN * 8, 0), "f32"
    yield "gather_rows", "64 rows of 4096", (64 * HIDDEN * 8, 0), "f32"
    yield "scatter_add", "64 rows of 4096", (64 * HIDDEN * 12, 0), "f32"
    yield "kv_write F16", "2048 tokens, 8 heads of 128", (2048 * KV_HEADS * DIM * 2 * 6, 0), "f32"
    yield "attention_decode F16", "1 token after 4096, 32 heads over 8 of 128", decode(1, 4096, 2, 1e6), "f16"
    yield "attention_decode F16", "64 tokens after 4096 each", decode(64, 4096, 2, 1e6), "f16"
    yield "attention_decode BF16", "64 tokens after 4096 each", decode(64, 4096, 2, 1e6), "f16"
    yield "attention_decode Q8_0", "64 tokens after 4096 each", decode(64, 4096, 34 / 32, 1e6), "f16"
    yield "attention_decode E4M3", "64 tokens after 4096 each", decode(64, 4096, 1, 1e6), "f16"
    yield "attention_merge", "1 token, 32 splits, 32 heads of 128", (32 * HEADS * (DIM + 2) * 4, 0), "f32"
    # Two halves of each query and weight; queries, results, keys and values once.
    seen = 2048 * 2048 // 2
    moved = 2048 * (2 * HEADS * 4 + 2 * KV_HEADS * 2) * DIM
    yield "attention_prefill F16", "2048 tokens from 0, 32 heads over 8 of 128", (moved, 8 * seen * HEADS * DIM), "f16"
    yield "attention_prefill BF16", "2048 tokens from 0, 32 heads over 8 of 128", (moved, 12 * seen * HEADS * DIM), "f16"
    # 128 heads over one of 576 numbers, of which 512 are the values; two halves of each query and weight.
    latent = 2 * 2 * 128 * (576 + 512)
    yield "attention_latent_split F16", "1 token after 4096, 128 heads", (4096 * 576 * 2 + 1.7e7, latent * 4096), "f16"
    moved = 2048 * (128 * (576 + 512) * 4 + 576 * 2)
    yield "attention_latent F16", "2048 tokens from 0, 128 heads", (moved, latent * seen), "f16"
    yield "attention_plain F32", "1 token after 4096", decode(1, 4096, 4, 0), "f32"
    packed = (2048 * HEADS * DIM * 4 * 4, 4 * 2048 * 512 * HEADS * DIM)
    yield "packed_attention F32", "2048 tokens, 4 texts of 512, 32 heads of 128", packed, "f32"
    yield "route_topk", "512 tokens, 8 of 128 experts", (512 * (128 + 16) * 4, 0), "f32"
    # The other passes of a draw are over what the second-level cache holds.
    yield "sample, greedy", "1 row of 128256", (VOCABULARY * 4, VOCABULARY), "f32"
    yield "sample, all filters", "64 rows of 128256", (64 * VOCABULARY * 4, 64 * 10 * VOCABULARY), "f32"
    yield "sort_slots", "4096 slots, 128 experts", (4096 * 12, 0), "f32"
    yield "combine_slots", "512 tokens, 8 slots of 4096", (row * 4 * 9, 0), "f32"
    yield "pack_codes Q4_K", "4096 x 4096, at load", (2 * HIDDEN * HIDDEN * Q4_K, 0), "f32"
    yield "pack_floats F16", "4096 x 4096, at load", (2 * HIDDEN * HIDDEN * 2, 0), "f32"


def main():
    print(HEADER, end="")
    for kernel, shape, (moved, operations), peak in kernels():
        memory, arithmetic = moved / MEMORY, operations / PEAKS[peak]
        limit = "memory" if memory >= arithmetic else peak
        numbers = f"{moved / 1e6:.2f} | {operations / 1e9:.2f} | {limit} | {1e6 * max(memory, arithmetic):.2f}"
        print(f"| {kernel} | {shape} | {numbers} |")
    attention = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV_HEADS * DIM
    weights = LAYERS * (attention + 3 * HIDDEN * FFN) + HIDDEN * VOCABULARY
    print(
        f"\nA step that decodes one token of the whole model in Q4_K_M reads {weights * Q4_K_M / 1e9:.1f} GB of\n"
        f"weights: at most {MEMORY / (weights * Q4_K_M):.0f} tokens a second; in bf16 {weights * 2 / 1e9:.1f} GB and "
        f"{MEMORY / (weights * 2):.0f}."
    )


if __name__ == "__main__":
    main()
