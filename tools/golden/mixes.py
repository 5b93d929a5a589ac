"""Which formats llama.cpp's quantiser gives to the tensors of a model, for
crates/ferrum-models/src/convert/tests.rs.

    pip install llama-cpp-python==0.3.36 gguf numpy
    python tools/golden/mixes.py crates/ferrum-models/tests/data/mixes.json

Makes models of the shapes below, of zeros, quantises them with every mix, and writes the formats of
each part of the layers, run by run: "3 Q6_K 2 Q4_K".
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from llama_c import quantize

MIXES = dict(q8_0=7, q6_k=18, q5_k_m=17, q5_k_s=16, q5_1=9, q5_0=8, q4_k_m=15, q4_k_s=14, q4_1=3, q4_0=2,
             iq4_nl=25, iq4_xs=30, q3_k_l=13, q3_k_m=12, q3_k_s=11, q2_k=10, f16=1, bf16=32)

BASE = dict(arch="llama", layers=16, hidden=256, ffn=512, heads=8, kv_heads=2, head_dim=32, experts=1, tied=True)
SHAPES = {
    "smollm2": dict(BASE, layers=30, hidden=576, ffn=1536, heads=9, kv_heads=3, head_dim=64),
    "llama-16": BASE,
    "llama-32-untied": dict(BASE, layers=32, kv_heads=8, tied=False),
    "llama-80-untied": dict(BASE, layers=80, kv_heads=1, tied=False),
    "llama-odd": dict(BASE, layers=3, hidden=100, ffn=160, heads=5, kv_heads=1, head_dim=20, tied=False),
    "mixtral": dict(BASE, layers=32, experts=8, tied=False),
    "qwen2-80": dict(BASE, arch="qwen2", layers=80, kv_heads=8, tied=False),
    "qwen3moe": dict(BASE, arch="qwen3moe", layers=24, experts=16),
    "gemma3": dict(BASE, arch="gemma3", layers=26, heads=4, kv_heads=1, head_dim=256, hidden=1152, ffn=1024),
    "phi3": dict(BASE, arch="phi3", layers=32, kv_heads=8, tied=False),
}


def parts(s):
    """Name in the layer and shape, outermost dimension first."""
    h, q, kv = s["hidden"], s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    yield "attn_norm.weight", (h,)
    if s["arch"] == "phi3":
        yield "attn_qkv.weight", (q + 2 * kv, h)
    else:
        yield from (("attn_q.weight", (q, h)), ("attn_k.weight", (kv, h)), ("attn_v.weight", (kv, h)))
    yield "attn_output.weight", (h, q)
    yield "ffn_norm.weight", (h,)
    if s["experts"] > 1:
        n, f = s["experts"], s["ffn"]
        yield "ffn_gate_inp.weight", (n, h)
        yield from (("ffn_gate_exps.weight", (n, f, h)), ("ffn_up_exps.weight", (n, f, h)),
                    ("ffn_down_exps.weight", (n, h, f)))
    elif s["arch"] == "phi3":
        yield from (("ffn_up.weight", (2 * s["ffn"], h)), ("ffn_down.weight", (h, s["ffn"])))
    else:
        yield from (("ffn_gate.weight", (s["ffn"], h)), ("ffn_up.weight", (s["ffn"], h)),
                    ("ffn_down.weight", (h, s["ffn"])))


def write(s, path):
    arch = s["arch"]
    w = GGUFWriter(path, arch)
    w.add_block_count(s["layers"])
    w.add_context_length(512)
    w.add_embedding_length(s["hidden"])
    w.add_feed_forward_length(s["ffn"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(s["kv_heads"])
    w.add_key_length(s["head_dim"])
    w.add_value_length(s["head_dim"])
    w.add_rope_dimension_count(s["head_dim"])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(256)
    if arch == "gemma3":
        w.add_sliding_window(64)
    if s["experts"] > 1:
        w.add_expert_count(s["experts"])
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(s["ffn"])
    zeros = lambda shape: np.zeros(shape, dtype=np.float32 if len(shape) == 1 else np.float16)
    w.add_tensor("token_embd.weight", zeros((256, s["hidden"])))
    w.add_tensor("output_norm.weight", zeros((s["hidden"],)))
    if not s["tied"]:
        w.add_tensor("output.weight", zeros((256, s["hidden"])))
    for layer in range(s["layers"]):
        for part, shape in parts(s):
            w.add_tensor(f"blk.{layer}.{part}", zeros(shape))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def runs(values):
    return " ".join(f"{len(list(group))} {value}" for value, group in itertools.groupby(values))


def main():
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.gguf", Path(folder) / "target.gguf"
        for name, shape in SHAPES.items():
            write(shape, source)
            mixes = {}
            for mix, file_type in MIXES.items():
                quantize(source, target, file_type)
                types = {t.name: t.tensor_type.name for t in GGUFReader(target).tensors}
                found = {n: t for n, t in types.items() if not n.startswith("blk.")}
                for part, _ in parts(shape):
                    found[part] = runs(types[f"blk.{i}.{part}"] for i in range(shape["layers"]))
                mixes[mix] = found
            dims = {part: list(reversed(size)) for part, size in parts(shape)}
            out[name] = dict(shape=shape, dims=dims, mixes=mixes)
            print(name)
    lines = [f"{json.dumps(name)}: {{\n" + ",\n".join(
        [f'"shape": {json.dumps(m["shape"])}', f'"dims": {json.dumps(m["dims"])}', '"mixes": {\n' + ",\n".join(
            f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in m["mixes"].items()) + "\n}"]) + "\n}"
        for name, m in out.items()]
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
