"""Makes crates/ferrum-models/tests/data/compressed.json: small layers as compressed-tensors and fp8 files
have them.

    pip install torch compressed-tensors
    python tools/golden/compressed.py crates/ferrum-models/tests/data/compressed.json

The layers of compressed-tensors are packed and unpacked by that package (0.20.1); those of fp8 are cast
by torch (2.15.0). Each case has the settings, the tensors as bytes, and the weights as bits of f32: what
the package unpacks with scales in f32, or `weight.float() * scale`. "e4m3" has the values of all bytes.
"""

import json
import sys

import torch
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

NAMES = {torch.int32: "I32", torch.int64: "I64", torch.int8: "I8", torch.bfloat16: "BF16",
         torch.float16: "F16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3"}

CASES = {
    # format, arguments of the weights, rows, columns, type of the scales
    "w4 group": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=32), 24, 96, torch.bfloat16),
    "w4 group 128": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=128), 8, 256, torch.float16),
    "w4 channel": ("pack-quantized", dict(num_bits=4, strategy="channel"), 12, 64, torch.bfloat16),
    "w4 tensor": ("pack-quantized", dict(num_bits=4, strategy="tensor"), 8, 64, torch.float16),
    "w4 asym": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=32, symmetric=False), 20, 64, torch.bfloat16),
    "w4 asym channel": ("pack-quantized", dict(num_bits=4, strategy="channel", symmetric=False), 8, 96, torch.float16),
    "w4 narrow": ("pack-quantized", dict(num_bits=4, strategy="group", group_size=20), 8, 100, torch.float16),
    "w8 group": ("pack-quantized", dict(num_bits=8, strategy="group", group_size=64), 9, 128, torch.bfloat16),
    "w8 asym": ("pack-quantized", dict(num_bits=8, strategy="group", group_size=32, symmetric=False), 8, 64, torch.float16),
    "int8 channel": ("int-quantized", dict(num_bits=8, strategy="channel"), 7, 96, torch.bfloat16),
    "int8 tensor": ("int-quantized", dict(num_bits=8, strategy="tensor"), 8, 64, torch.float32),
    "float channel": ("float-quantized", dict(num_bits=8, type="float", strategy="channel"), 9, 96, torch.bfloat16),
    "float tensor": ("float-quantized", dict(num_bits=8, type="float", strategy="tensor"), 8, 64, torch.float32),
    "float narrow": ("float-quantized", dict(num_bits=8, type="float", strategy="channel"), 8, 40, torch.float32),
}
FP8 = {
    # block, rows, columns
    "fp8 block": ([16, 32], 40, 96),
    "fp8 odd block": ([16, 24], 20, 64),
    "fp8 tensor": (None, 8, 64),
}


def qparams(weight, args, dtype):
    """Scales and zero points of about the right size, and none that is alike."""
    rows, cols = weight.shape
    groups = cols // args.group_size if args.strategy == "group" else 1
    shape = (1,) if args.strategy == "tensor" else (rows, groups)
    largest = 448.0 if args.type == "float" else 2.0 ** (args.num_bits - 1)
    scale = ((torch.rand(shape) + 0.5) * weight.abs().max() / largest).to(dtype)
    low, high = -(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1)
    zero = torch.randint(low, high, shape, dtype=torch.int8) if not args.symmetric else None
    return scale, zero


def tensors(state):
    out = {}
    for name, value in sorted(state.items()):
        raw = bytes(torch.tensor(value.flatten().tolist(), dtype=value.dtype).view(torch.uint8).tolist())
        out[name] = [NAMES[value.dtype], list(value.shape), raw.hex()]
    return out


def bits(weight):
    return weight.float().contiguous().view(torch.int32).reshape(-1).tolist()


def compressed(name):
    format, settings, rows, cols, dtype = CASES[name]
    args = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    kind = PackedQuantizationCompressor if format == "pack-quantized" else NaiveQuantizationCompressor
    weight = torch.randn(rows, cols) * 0.05
    scale, zero = qparams(weight, args, dtype)
    state = {"weight": weight, "weight_scale": scale}
    if zero is not None:
        state["weight_zero_point"] = zero
    state = kind.compress(state, scheme)
    wide = {**state, "weight_scale": state["weight_scale"].float()}
    weights = kind.decompress(wide, scheme)["weight"]
    group = json.loads(scheme.model_dump_json())
    config = {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
              "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}
    return {"config": config, "rows": rows, "cols": cols, "tensors": tensors(state), "weights": bits(weights)}


def fp8(name):
    block, rows, cols = FP8[name]
    high, wide = block or (rows, cols)
    grid = (-(-rows // high), -(-cols // wide))
    scale = (torch.rand(grid) + 0.5) * 1e-3
    full = scale.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :cols]
    # Of some blocks a column is small beside the others.
    weight = torch.randn(rows, cols) * torch.where(torch.arange(cols) % 7 == 0, 0.001, 0.1)
    weight = (weight / full).clamp(-448, 448).to(torch.float8_e4m3fn)
    state = {"weight": weight, "weight_scale_inv" if block else "weight_scale": scale if block else scale.reshape(())}
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    if block:
        config["weight_block_size"] = block
    return {"config": config, "rows": rows, "cols": cols, "tensors": tensors(state),
            "weights": bits(weight.float() * full)}


def main():
    torch.manual_seed(3)
    cases = {name: compressed(name) for name in CASES} | {name: fp8(name) for name in FP8}
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    lines = [json.dumps(name) + ":" + json.dumps(case, separators=(",", ":")) for name, case in cases.items()]
    values = json.dumps([None if x != x else x for x in every.tolist()], separators=(",", ":"))
    with open(sys.argv[1], "w") as file:
        file.write('{"e4m3":' + values + ',\n"cases":{' + ",\n".join(lines) + "}}\n")


main()
