"""What tiny models of golden files are filled with: values that follow from the names of their tensors, so
that the files need not hold them. Value i of a tensor is

    offset + scale * (2 * (splitmix64(fnv1a(name) + i) >> 40) / 2**24 - 1)

rounded to f32. crates/ferrum-models/tests/support/filled.rs has the same in Rust.
"""
import numpy as np


def fnv1a(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def values(name, shape, offset, scale):
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(count, dtype=np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = 2.0 * (z >> np.uint64(40)).astype(np.float64) / 2.0**24 - 1.0
    return (offset + scale * unit).astype(np.float32).reshape(shape)
