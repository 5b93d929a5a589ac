"""Vectors and scores of tiny models by sentence-transformers, for crates/ferrum-models/tests/pooled.rs.

    pip install sentence-transformers
    python tools/golden/pooled.py crates/ferrum-models/tests/data/pooled.json

A causal model whose last token is pooled (as Qwen3-Embedding is), and a cross-encoder of bert. Weights
are not kept but follow from the tensors' names, as filled.py says. The files beside the weights are those that the packages wrote.
Made with sentence-transformers 6.2.0, transformers 5.24.0, torch 2.15.0, in f32.
"""
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, Qwen3Config,
                          Qwen3Model)

from filled import values


WORDS = ("a the man is eating food bread girl baby horse river stone what who rides eats and of in on it was "
         "capital city france paris king queen").split()
TEXTS = ["the man is eating bread", "what is the capital of france", "a", "", "girl and horse",
         "the king and the queen of the city on the river in france was eating food and bread of stone"]
PAIRS = [("what is the capital of france", "paris is the capital of france"), ("who rides", "the girl rides a horse"),
         ("a", ""), ("", "the king"), ("what is it", "stone " * 60), ("river " * 60, "stone " * 60)]


def filling(name, shape):
    if name.endswith(("norm.weight", "LayerNorm.weight")):
        return 1.0, 0.25
    if name.endswith("bias"):
        return 0.0, 0.5
    return 0.0, 2.0 / shape[-1] ** 0.5


def fill(folder):
    file, tensors = folder / "model.safetensors", {}
    with safe_open(file, "pt") as f:
        for key in f.keys():
            shape = list(f.get_slice(key).get_shape())
            tensors[key] = [shape, *filling(key, shape)]
    state = {key: torch.from_numpy(values(key, *spec)) for key, spec in tensors.items()}
    save_file(state, file, metadata={"format": "pt"})
    return tensors


def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    vocab["<|endoftext|>"] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    end = vocab["<|endoftext|>"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", end)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
                                   padding_side="left", model_max_length=128), len(vocab)


def word_tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {w: i for i, w in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
                                   unk_token="[UNK]", mask_token="[MASK]", model_max_length=64,
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"]), len(vocab)


def files(folder):
    """Everything but the weights, by its path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = json.loads(path.read_text())
    return found


def causal(root):
    inner, outer = root / "inner", root / "outer"
    tokenizer, size = byte_tokenizer()
    config = Qwen3Config(vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=256,
                         tie_word_embeddings=False)
    Qwen3Model(config).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    tensors = fill(inner)
    transformer = Transformer(str(inner))
    model = SentenceTransformer(modules=[transformer, Pooling(64, pooling_mode="lasttoken"), Normalize()], device="cpu")
    model.save_pretrained(str(outer))
    model = SentenceTransformer(str(outer), device="cpu")
    vectors = model.encode(TEXTS, batch_size=4)
    ids = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    return {"files": files(outer), "tensors": tensors, "texts": TEXTS, "ids": ids,
            "vectors": [[float(f"{x:.7g}") for x in v] for v in vectors.tolist()]}


def cross(root):
    inner, outer = root / "cross", root / "cross-saved"
    tokenizer, size = word_tokenizer()
    config = BertConfig(vocab_size=size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
                        max_position_embeddings=64, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    tensors = fill(inner)
    model = CrossEncoder(str(inner), device="cpu")
    scores = model.predict(PAIRS, batch_size=4).tolist()
    encoded = model.tokenizer(*map(list, zip(*PAIRS)), truncation=True, max_length=64)
    return {"files": files(inner), "tensors": tensors, "pairs": PAIRS,
            "ids": encoded["input_ids"], "kinds": encoded["token_type_ids"],
            "scores": [float(f"{x:.7g}") for x in scores]}


def main(out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        golden = {"made_by": "tools/golden/pooled.py", "causal": causal(Path(root)), "cross": cross(Path(root))}
    Path(out).write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(golden["cross"]["scores"], golden["causal"]["vectors"][0][:4])


if __name__ == "__main__":
    main(sys.argv[1])
