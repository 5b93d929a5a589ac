#!/usr/bin/env python3
"""Makes the golden data of crates/ferrum-kernels/tests/formats.rs: for each weight format, blocks
of random bytes and the values that the `gguf` Python package reads from them.

Usage: python tools/golden/formats.py crates/ferrum-kernels/tests/data/formats.bin
Needs the packages gguf (0.17 or later) and numpy.

File, little-endian: for each format in turn u8 length and bytes of the name, u32 number of values
n, u32 number of bytes b, b bytes of blocks, n bit patterns u32.
"""

import struct
import sys

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where the half-precision scales lie in a block.
SCALES = {
    "F32": [],
    "F16": [0],
    "BF16": [],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
    # Ferrum's own: the formula of GPTQ and AWQ, scale · (q - zero).
    "Q4_Z": [0],
}

# Scales that every format with half-precision scales meets, as bit patterns: both zeroes, the
# smallest and the largest subnormal, the smallest normal, the largest finite number, negatives.
SPECIAL = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0xAE66]


def blocks(name, rng):
    """Random blocks of a format, [count, bytes of a block]."""
    length, size = (32, 19) if name == "Q4_Z" else GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = {1: 64, 32: 16, 256: 3}[length]
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if name in ("F32", "BF16"):
        # All exponents but the last, which is infinity and NaN.
        word = raw[:, -2:].view(np.uint16)
        raw[:, -2:] = np.where((word & 0x7F80) == 0x7F80, word & 0xBFFF, word).view(np.uint8)
    if name == "MXFP4":
        raw[:6, 0] = [0, 1, 2, 127, 254, 255]
    for k, offset in enumerate(SCALES[name]):
        scale = (rng.standard_normal(count) * 0.05).astype(np.float16).view(np.uint16)
        special = min(len(SPECIAL), count - 1)
        start = k * 3 if count < len(SPECIAL) else 0
        for i in range(special):
            scale[i] = SPECIAL[(start + i * (1 + 2 * k)) % len(SPECIAL)]
        raw[:, offset : offset + 2] = scale.reshape(-1, 1).view(np.uint8)
    return raw


def values_of(name, raw):
    if name != "Q4_Z":
        return dequantize(raw.reshape(1, -1), GGMLQuantizationType[name])
    scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
    quants = np.concatenate([raw[:, 3:] & 15, raw[:, 3:] >> 4], axis=1).astype(np.int32)
    return scale * (quants - raw[:, 2:3].astype(np.int32)).astype(np.float32)


def main():
    rng = np.random.default_rng(20240607)
    out = bytearray()
    for name in SCALES:
        raw = blocks(name, rng)
        with np.errstate(over="ignore"):
            values = values_of(name, raw)
        values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        assert not np.isnan(values).any(), name
        out += struct.pack("<B", len(name)) + name.encode()
        out += struct.pack("<II", values.size, raw.size)
        out += raw.tobytes() + values.view(np.uint32).tobytes()
    with open(sys.argv[1], "wb") as file:
        file.write(out)


if __name__ == "__main__":
    main()
