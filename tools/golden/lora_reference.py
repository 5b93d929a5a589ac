"""Logits of tiny models with LoRA adapters by PEFT, for crates/ferrum-models/tests/lora.rs.

    pip install torch transformers peft safetensors numpy
    python tools/golden/lora_reference.py crates/ferrum-models/tests/data

The models are those of hf_reference.py, whose files hold the tensors, and prompt and steps are the same.
PEFT makes each adapter and its adapter_config.json; the adapter's tensors are filled by their names, as
the models' are. Writes lora.json, made with peft 0.21.2, transformers 5.24.0, torch 2.15.0, in f32 with
eager attention.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from filled import values
from hf_reference import logits_of
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

CASES = {
    "list": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "patterns": ("llama", dict(
        r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True, bias="none",
        rank_pattern={"k_proj": 3, r"layers\.1\.mlp\.down_proj": 5, ".*.1.mlp.up_proj": 7},
        alpha_pattern={"o_proj": 2, "1.mlp.up_proj": 9})),
    "regex": ("qwen2", dict(r=2, lora_alpha=3, target_modules=r".*\.1\.(self_attn|mlp)\.(q|k|up|down)_proj")),
    "all": ("qwen2", dict(r=8, lora_alpha=16, target_modules="all-linear")),
    "layers": ("qwen2", dict(
        r=3, lora_alpha=3, target_modules=["q_proj", "k_proj", "gate_proj", "down_proj"],
        exclude_modules=["k_proj"], layers_to_transform=[1])),
    "fused": ("phi3", dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    "norms": ("gemma2", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "reordered": ("granite", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"])),
}


def base(golden):
    """The model of a file of hf_reference.py."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(golden["config"]))
        tensors = {k: torch.from_numpy(values(k, *spec)) for k, spec in golden["tensors"].items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32).eval()


def make(golden, settings):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        get_peft_model(base(golden), LoraConfig(task_type="CAUSAL_LM", **settings)).save_pretrained(folder)
        file, tensors = folder / "adapter_model.safetensors", {}
        with safe_open(file, "pt") as f:
            for key in f.keys():
                shape = list(f.get_slice(key).get_shape())
                tensors[key] = [shape, 0.0, (1.0 if "lora_A" in key else 0.7) / shape[1] ** 0.5]
        save_file({k: torch.from_numpy(values(k, *spec)) for k, spec in tensors.items()}, file)
        config = json.loads((folder / "adapter_config.json").read_text())
        model = PeftModel.from_pretrained(base(golden), folder).eval()
        logits = logits_of(model)
    config["base_model_name_or_path"] = "base"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    return dict(config=config, tensors=tensors, logits=logits)


def main():
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = []
    for name, (model, settings) in CASES.items():
        golden = json.loads((out / "hf" / f"{model}.json").read_text())
        case = make(golden, settings)
        plain, changed = (torch.tensor(x["logits"]) for x in (golden, case))
        change = (plain - changed).abs().max() / plain.abs().max()
        print(f"{name}: {len(case['tensors'])} tensors, logits change by {change:.2f} of the largest")
        lines = [f'"config": {json.dumps(case["config"], sort_keys=True)}',
                 '"tensors": {\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(case["tensors"].items())) + "\n}",
                 '"logits": [\n' + ",\n".join(map(json.dumps, case["logits"])) + "\n]"]
        cases.append(f'"{name}": {{\n"model": "{model}",\n' + ",\n".join(lines) + "\n}")
    (out / "lora.json").write_text("{\n" + ",\n".join(cases) + "\n}\n")


if __name__ == "__main__":
    main()
