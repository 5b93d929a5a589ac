"""Makes crates/ferrum-models/tests/data/quantized.json: small layers as GPTQ and AWQ pack them.

    pip install numpy
    python tools/golden/quantized.py crates/ferrum-models/tests/data/quantized.json

Written from the published formats, not with Ferrum: GPTQ as AutoGPTQ's `qlinear_cuda_old.pack` and
gptqmodel's v2 (zero points as they are), AWQ as AutoAWQ's `WQLinear_GEMM.from_linear`. Each case has
the settings, the packed tensors, and the weights `scale * (q - zero)` as bits of f32 [out, in].
"""

import json
import sys

import numpy as np

CASES = {
    # method, settings, columns, rows
    "gptq sym": ("gptq", dict(bits=4, group_size=64, sym=True, desc_act=False), 128, 24),
    "gptq sym all": ("gptq", dict(bits=4, group_size=-1, sym=True, desc_act=False), 96, 8),
    "gptq asym": ("gptq", dict(bits=4, group_size=32, sym=False, desc_act=False), 96, 16),
    "gptq asym v2": ("gptq", dict(bits=4, group_size=32, sym=False, desc_act=False, checkpoint_format="gptq_v2"), 64, 16),
    "gptq order": ("gptq", dict(bits=4, group_size=32, sym=False, desc_act=True), 128, 16),
    "gptq 8": ("gptq", dict(bits=8, group_size=32, sym=True, desc_act=False), 64, 12),
    "gptq 8 asym": ("gptq", dict(bits=8, group_size=32, sym=False, desc_act=False), 64, 12),
    "gptq 8 order": ("gptq", dict(bits=8, group_size=32, sym=True, desc_act=True), 64, 8),
    "gptq narrow": ("gptq", dict(bits=4, group_size=16, sym=False, desc_act=False), 48, 8),
    "awq": ("awq", dict(bits=4, group_size=32, zero_point=True, version="gemm"), 96, 24),
    "awq wide": ("awq", dict(bits=4, group_size=128, zero_point=True, version="gemm"), 256, 8),
}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(values, bits, axis, order=None):
    """Unsigned numbers to 32-bit words along an axis."""
    values = np.moveaxis(values.astype(np.uint32), axis, 0)
    per = 32 // bits
    words = np.zeros((values.shape[0] // per, *values.shape[1:]), dtype=np.uint32)
    for k in range(per):
        words |= values[(order or range(per))[k]::per] << np.uint32(bits * k)
    return np.moveaxis(words, 0, axis)


def case(name, rng):
    method, settings, cols, rows = CASES[name]
    bits, group = settings["bits"], settings["group_size"]
    group = cols if group == -1 else group
    groups, top = cols // group, 2**bits
    q = rng.integers(0, top, (cols, rows))
    scales = (rng.random((groups, rows)) * 0.02 + 0.001).astype(np.float16)
    zeros = np.full((groups, rows), top // 2)
    if not settings.get("sym", False):
        # of none the value less one is below zero
        zeros = rng.integers(1, top, (groups, rows))
    of_column = np.arange(cols) // group
    if settings.get("desc_act"):
        of_column = rng.permutation(of_column)
    weights = scales[of_column].astype(np.float32) * (q - zeros[of_column]).astype(np.float32)
    tensors = {"scales": scales}
    if method == "gptq":
        stored = zeros if settings.get("checkpoint_format") == "gptq_v2" else zeros - 1
        per = 32 // bits
        padded = np.zeros((groups, -(-rows // per) * per), dtype=np.uint32)
        padded[:, :rows] = stored
        tensors |= {"qweight": pack(q, bits, 0), "qzeros": pack(padded, bits, 1),
                    "g_idx": of_column.astype(np.int32)}
    else:
        tensors |= {"qweight": pack(q, 4, 1, AWQ_ORDER), "qzeros": pack(zeros, 4, 1, AWQ_ORDER)}
    as_list = {k: [list(v.shape), (v.view(np.uint16) if v.dtype == np.float16 else v.view(np.int32)).reshape(-1).tolist()]
               for k, v in ((k, np.ascontiguousarray(v)) for k, v in tensors.items())}
    bits_of = np.ascontiguousarray(weights.T).view(np.uint32).reshape(-1).tolist()
    return {"config": {"quant_method": method, **settings}, "cols": cols, "rows": rows,
            "tensors": as_list, "weights": bits_of}


def main():
    rng = np.random.default_rng(7)
    lines = [json.dumps(name) + ":" + json.dumps(case(name, rng), separators=(",", ":")) for name in CASES]
    with open(sys.argv[1], "w") as file:
        file.write("{" + ",\n".join(lines) + "}\n")


main()
