"""Logits of tiny models by Hugging Face's transformers, for crates/ferrum-models/tests/hf_logits.rs.

    pip install torch transformers safetensors numpy
    python tools/golden/hf_reference.py crates/ferrum-models/tests/data/hf

Writes one file per model: its config.json, the tensors of its safetensors file (name, shape, and how
they are filled), a prompt, the tokens that follow it, and the logits after the prompt and after each
of these tokens. The weights themselves are not kept: they follow from the names of the tensors, as
filled.py says (and are rounded to bf16 where the file says so), which the test computes again.
Made with transformers 5.24.0, torch 2.15.0, in f32 with eager attention.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from filled import values

BASE = dict(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)
NTK = dict(rope_theta=10000.0, rope_type="dynamic", factor=2.0)
YARN = dict(rope_theta=10000.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
LLAMA3 = dict(rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
LOCAL = dict(rope_type="default", rope_theta=10000.0)

MODELS = {
    "llama": dict(model_type="llama"),
    "llama-linear": dict(model_type="llama", rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    "llama-llama3": dict(model_type="llama", rope_parameters=LLAMA3, tie_word_embeddings=True),
    "llama-dynamic": dict(model_type="llama", rope_parameters=NTK),
    "llama-bf16": dict(model_type="llama", dtype="bfloat16"),
    "mistral": dict(model_type="mistral", sliding_window=16, head_dim=32),
    "mixtral": dict(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen2": dict(model_type="qwen2"),
    "qwen2-window": dict(model_type="qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "qwen2-yarn": dict(model_type="qwen2", rope_parameters=YARN),
    "qwen3": dict(model_type="qwen3", head_dim=32, tie_word_embeddings=True),
    "qwen3-moe": dict(model_type="qwen3_moe", head_dim=32, num_experts=4, num_experts_per_tok=2,
                      moe_intermediate_size=32, norm_topk_prob=True),
    "gemma2": dict(model_type="gemma2", head_dim=32, query_pre_attn_scalar=24, sliding_window=16,
                   tie_word_embeddings=True),
    "gemma3": dict(model_type="gemma3_text", head_dim=32, query_pre_attn_scalar=24, sliding_window=16,
                   num_hidden_layers=3, sliding_window_pattern=3, tie_word_embeddings=True,
                   rope_parameters=dict(
                       full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
                       sliding_attention=LOCAL)),
    "phi3": dict(model_type="phi3", sliding_window=None),
    "phi3-longrope": dict(
        model_type="phi3", partial_rotary_factor=0.5, original_max_position_embeddings=64,
        rope_parameters=dict(
            rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5,
            short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[1.5, 2.0, 3.0, 4.0])),
    "olmo2": dict(model_type="olmo2"),
    "granite": dict(model_type="granite", embedding_multiplier=12.0, logits_scaling=8.0,
                    residual_multiplier=0.22, attention_multiplier=0.03),
    "smollm3": dict(model_type="smollm3", num_hidden_layers=4, tie_word_embeddings=True),
}
# Written as transformers 4 did, which most folders are.
OLD_ROPE = ["llama-llama3", "qwen2-yarn", "gemma3", "phi3-longrope", "llama-linear"]

PROMPT = [(7 * i * i + 3 * i + 1) % 128 for i in range(40)]
STEPS = [(11 * i + 5) % 128 for i in range(8)]


def filling(name, shape, model_type):
    """Offset and scale: weights that keep activations near one, and differ everywhere."""
    if name.endswith("norm.weight"):
        return (0.0 if model_type.startswith("gemma") else 1.0), 0.25
    if name.endswith("bias"):
        return 0.0, 0.5
    return 0.0, 2.0 / shape[-1] ** 0.5


def old_rope(config):
    """rope_parameters in the words of transformers 4."""
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = rope


def logits_of(model):
    """Logits after the prompt, and after each of the steps."""
    logits = []
    with torch.no_grad():
        past = None
        for chunk in [PROMPT, *([token] for token in STEPS)]:
            result = model(input_ids=torch.tensor([chunk]), past_key_values=past, use_cache=True)
            past = result.past_key_values
            logits.append([float(f"{x:.7g}") for x in result.logits[0, -1].tolist()])
    return logits


def make(name, out):
    settings = {**BASE, **MODELS[name]}
    dtype = settings.pop("dtype", "float32")
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model.save_pretrained(folder)
        file = folder / "model.safetensors"
        tensors = {}
        with safe_open(file, "pt") as f:
            for key in f.keys():
                shape = list(f.get_slice(key).get_shape())
                tensors[key] = [shape, *filling(key, shape, config.model_type)]
        state = {key: torch.from_numpy(values(key, *spec)) for key, spec in tensors.items()}
        if dtype == "bfloat16":
            state = {key: value.bfloat16() for key, value in state.items()}
        save_file(state, file, metadata={"format": "pt"})
        written = json.loads((folder / "config.json").read_text())
        if name in OLD_ROPE:
            old_rope(written)
            (folder / "config.json").write_text(json.dumps(written))
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32).eval()
    logits = logits_of(model)
    written.pop("transformers_version", None)
    lines = [
        f'"config": {json.dumps(written, sort_keys=True)}',
        f'"dtype": "{"BF16" if dtype == "bfloat16" else "F32"}"',
        '"tensors": {\n' + ",\n".join(f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in sorted(tensors.items())) + "\n}",
        f'"prompt": {PROMPT}', f'"steps": {STEPS}',
        '"logits": [\n' + ",\n".join(json.dumps(row) for row in logits) + "\n]",
    ]
    (out / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    spread = max(logits[-1]) - min(logits[-1])
    print(f"{name}: {len(tensors)} tensors, logits spread over {spread:.2f}")


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    print("transformers", transformers.__version__, "torch", torch.__version__)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in sys.argv[2:] or MODELS:
        make(name, out)


if __name__ == "__main__":
    main()
