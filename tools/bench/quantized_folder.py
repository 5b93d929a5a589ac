"""A folder with random weights as GPTQ or AWQ pack them, for measuring how fast such a folder loads and runs.

    pip install numpy
    python tools/bench/quantized_folder.py FOLDER [gptq|gptq-order|gptq-sym|awq] [LAYERS]

The shape is that of Llama 3.2 1B with a vocabulary of 32000, the head and the embedding bf16. The weights
mean nothing; loading and speed are those of a real model's.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

HIDDEN, FFN, HEADS, KV_HEADS, HEAD, VOCAB, GROUP = 2048, 8192, 32, 8, 64, 32000, 128
LINEARS = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN),
}


def layer(kind, rng, rows, cols):
    """The parts of a layer: name, type and values."""
    words = lambda *shape: rng.integers(0, 2**32, shape, dtype=np.uint32)
    groups = cols // GROUP
    scales = (rng.random((groups, rows), dtype=np.float32) * 0.01 + 0.002).astype(np.float16)
    if kind == "awq":
        yield "qweight", "I32", words(cols, rows // 8)
        yield "qzeros", "I32", words(groups, rows // 8)
    else:
        zeros = np.full((groups, rows // 8), 0x77777777, np.uint32)
        yield "qweight", "I32", words(cols // 8, rows)
        yield "qzeros", "I32", zeros if kind == "gptq-sym" else words(groups, rows // 8)
        order = np.arange(cols, dtype=np.int32) // GROUP
        yield "g_idx", "I32", rng.permutation(order) if kind == "gptq-order" else order
    yield "scales", "F16", scales


def tensors(kind, layers):
    rng = np.random.default_rng(1)
    small = lambda *shape: (rng.standard_normal(shape, dtype=np.float32) * 0.02).view(np.uint32) >> 16
    yield "model.embed_tokens.weight", "BF16", small(VOCAB, HIDDEN).astype(np.uint16)
    ones = np.full(HIDDEN, 0x3F80, np.uint16)
    for i in range(layers):
        for name, (rows, cols) in LINEARS.items():
            for part, dtype, values in layer(kind, rng, rows, cols):
                yield f"model.layers.{i}.{name}.{part}", dtype, values
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{i}.{norm}.weight", "BF16", ones
    yield "model.norm.weight", "BF16", ones


def write(path, kind, layers):
    header, start = {}, 0
    for name, dtype, values in tensors(kind, layers):
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _, _, values in tensors(kind, layers):
            file.write(values.tobytes())


def main():
    out, kind = Path(sys.argv[1]), (sys.argv[2:] or ["gptq"])[0]
    layers = int((sys.argv[3:] or ["16"])[0])
    out.mkdir(parents=True, exist_ok=True)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": kind == "gptq-sym",
                    "desc_act": kind == "gptq-order"}
    if kind == "awq":
        quantization = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    config = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "quantization_config": quantization,
    }
    (out / "config.json").write_text(json.dumps(config))
    write(out / "model.safetensors", kind, layers)


main()
