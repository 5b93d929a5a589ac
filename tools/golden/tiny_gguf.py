"""The tiny models of hf_reference.py, converted to GGUF by Ferrum and run by llama.cpp.

    pip install llama-cpp-python==0.3.36 safetensors ml_dtypes numpy
    python tools/golden/tiny_gguf.py FERRUM crates/ferrum-models/tests/data/hf WORK [NAME...]

Prints, for each, the largest difference between llama.cpp's logits and those of transformers, over the
largest logit, and what Ferrum noted on converting.
"""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from filled import values
from llama_c import Model


def letter(byte):
    return chr(256 + byte) if byte <= 32 else chr(256 + 33) if byte == 127 else chr(byte)


def long_context(config):
    """llama.cpp's contexts have at least 256 positions, for which it would take LongRoPE's long factors:
    the same model, whose short factors reach as far."""
    rope = config["rope_scaling"]
    short, positions = config["original_max_position_embeddings"], config["max_position_embeddings"]
    rope["attention_factor"] = (1 + np.log(positions / short) / np.log(short)) ** 0.5
    config["original_max_position_embeddings"] = 256


def folder(golden, path):
    path.mkdir(parents=True, exist_ok=True)
    dtype = ml_dtypes.bfloat16 if golden["dtype"] == "BF16" else np.float32
    save_file({k: values(k, *spec).astype(dtype) for k, spec in golden["tensors"].items()},
              path / "model.safetensors")
    if "short_factor" in (golden["config"].get("rope_scaling") or {}):
        long_context(golden["config"])
    (path / "config.json").write_text(json.dumps(golden["config"]))
    part = dict(type="ByteLevel", add_prefix_space=False, use_regex=True)
    model = dict(type="BPE", vocab={letter(i): i for i in range(128)}, merges=[])
    (path / "tokenizer.json").write_text(json.dumps(dict(pre_tokenizer=part, decoder=part, model=model)))


def run(path, golden):
    model, worst = Model(path, context=64), 0.0
    chunks = [golden["prompt"], *([token] for token in golden["steps"])]
    for chunk, expected in zip(chunks, np.array(golden["logits"])):
        worst = max(worst, np.abs(model.logits(chunk) - expected).max() / np.abs(expected).max())
    return worst


def main():
    ferrum, data, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for name in sys.argv[4:] or sorted(path.stem for path in data.glob("*.json")):
        golden = json.loads((data / f"{name}.json").read_text())
        # llama.cpp looks for certain tokens where a model is called phi3.
        source, file = work / "tiny", work / f"{name}.gguf"
        folder(golden, source)
        command = [ferrum, "convert", source, file, "--quant", "f32", "--force"]
        made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        notes = " ".join(line for line in made.stderr.splitlines() if line.startswith(("note", "error")))
        if made.returncode != 0:
            print(f"{name}: {notes}")
            continue
        try:
            print(f"{name}: {run(file, golden):.2e} {notes}", flush=True)
        except Exception as error:
            print(f"{name}: llama.cpp: {error} {notes}", flush=True)


main()
