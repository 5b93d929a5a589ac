"""A llama GGUF file as a folder that transformers reads: bf16 safetensors and tokenizer.json.

    pip install gguf numpy
    python tools/golden/hf_folder.py SMOLLM2.gguf FOLDER

For comparing Ferrum's two readers on a real model: the weights are those of the file, dequantised and
rounded to bf16. Only byte-level BPE with SmolLM's cut is written.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def bf16(values):
    """The upper halves of f32 numbers, rounded to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def save(tensors, path):
    """A safetensors file of bf16 tensors."""
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for values in tensors.values():
            file.write(values.tobytes())


def main():
    reader, out = GGUFReader(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    field = lambda key: reader.fields[key].contents() if key in reader.fields else None
    arch = lambda key: field("llama." + key)
    heads, kv_heads = arch("attention.head_count"), arch("attention.head_count_kv")
    tensors = {}
    for t in reader.tensors:
        values = dequantize(t.data, t.tensor_type).astype(np.float32)
        module = t.name.removesuffix(".weight")
        if module.startswith("blk."):
            _, layer, module = module.split(".", 2)
            name = f"model.layers.{layer}.{LAYER[module]}.weight"
            if module in ("attn_q", "attn_k"):
                # The converter puts the rows of a rotated pair side by side.
                n = heads if module == "attn_q" else kv_heads
                shape = values.shape
                values = values.reshape(n, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
        else:
            name = f"{MODEL[module]}.weight"
        tensors[name] = bf16(values)
    save(tensors, out / "model.safetensors")
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": arch("embedding_length"), "intermediate_size": arch("feed_forward_length"),
        "num_hidden_layers": arch("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": arch("context_length"),
        "rms_norm_eps": arch("attention.layer_norm_rms_epsilon"), "rope_theta": arch("rope.freq_base"),
        "vocab_size": len(tokens), "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": "bfloat16", "eos_token_id": field("tokenizer.ggml.eos_token_id"),
    }
    added = [dict(id=i, content=t, special=k == 3, lstrip=False, rstrip=False, single_word=False,
                  normalized=False) for i, (t, k) in enumerate(zip(tokens, types)) if k in (3, 4)]
    tokenizer = {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "unk_token": None, "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": field("tokenizer.ggml.merges")},
    }
    names = {key: tokens[field(f"tokenizer.ggml.{key}_id")] for key in ("bos_token", "eos_token")}
    write = lambda name, value: (out / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    write("config.json", config)
    write("tokenizer.json", tokenizer)
    write("tokenizer_config.json", {**names, "chat_template": field("tokenizer.chat_template")})


main()
