"""Makes crates/ferrum-models/src/hf/defaults.json: what a config.json means that leaves a setting out.

    pip install transformers      (5.24.0 was used)
    python tools/golden/hf_defaults.py > crates/ferrum-models/src/hf/defaults.json

For each model type the values that its configuration class has by itself, of the settings that are read
here and that are not null. A value that depends on the others (heads of a width that follows from the
number of heads) is none: it is found by asking for two shapes.
"""

import json

import transformers
from transformers import AutoConfig

TYPES = ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3", "olmo2",
         "granite", "smollm3"]
KEYS = """hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size num_experts
    num_local_experts num_experts_per_tok moe_intermediate_size rms_norm_eps final_logit_softcapping
    attn_logit_softcapping embedding_multiplier residual_multiplier attention_multiplier logits_scaling norm_topk_prob
    hidden_act hidden_activation max_position_embeddings original_max_position_embeddings head_dim
    query_pre_attn_scalar sliding_window max_window_layers sliding_window_pattern no_rope_layer_interval
    partial_rotary_factor""".split()
SHAPES = [dict(hidden_size=256, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=64),
          dict(hidden_size=96, num_attention_heads=2, num_hidden_layers=5, max_position_embeddings=80)]


def defaults(kind):
    # A window that is not used is null whatever its size is by default.
    made = [AutoConfig.for_model(kind, **shape, use_sliding_window=True).to_dict() for shape in SHAPES]
    plain = AutoConfig.for_model(kind).to_dict()
    out = {}
    for key in KEYS:
        if key in SHAPES[0]:
            out[key] = plain[key]
        elif made[0].get(key) is not None and made[0][key] == made[1].get(key):
            out[key] = made[0][key]
    rope = plain["rope_parameters"]
    out["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
    if "sliding_attention" in rope:
        out["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    # Where the head is one of its own by default, the tensors tell.
    if plain["tie_word_embeddings"]:
        out["tie_word_embeddings"] = True
    if kind == "qwen3_moe":  # the name in its files
        out["num_experts"] = out.pop("num_local_experts", out.get("num_experts"))
    return out


rows = [f'  "{kind}": {json.dumps(defaults(kind))}' for kind in TYPES]
print("{\n" + f'  "transformers": "{transformers.__version__}",\n' + ",\n".join(rows) + "\n}")
