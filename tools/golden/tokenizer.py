#!/usr/bin/env python3
"""Makes the data of crates/ferrum-models/tests/tokenizer.rs.

Usage: python tools/golden/tokenizer.py DATA SMOLLM2.gguf GEMMA3.gguf

DATA is crates/ferrum-models/tests/data/tokenizer, which holds texts.json. Needs the packages gguf,
llama-cpp-python (0.3.36 was used) and tokenizers (0.23.3 was used).

Writes three small vocabularies, trained on texts.json so that a wrong cut of a text shows in its
ids: bpe.json (merges across all borders), spm.json and bert.json. Writes golden.json: for each
case the ids of every text.

- smollm2, gemma3: llama.cpp, special tokens off (`text`) and on (`markup`).
- bpe/NAME: bpe.json with the pre-tokenizer NAME. The ids are those of Hugging Face tokenizers with
  the pattern of the model's own tokenizer.json; where llama.cpp gives others (it approximates two
  of the patterns), the numbers of the texts are listed under `differs`.
- bpe/default, bpe/deepseek-llm, spm/prefix, spm/plain (without add_space_prefix): llama.cpp. Texts
  where it departs from the model are listed under `skip`: it sees no ideographic space (U+3000)
  within a set of characters, and its SentencePiece merges plain text to control tokens.
- bert/lower, bert/cased: bert.json, by Hugging Face tokenizers; again with `differs`.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
from llama_cpp import Llama
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<unk>"]
USER_DEFINED = ["\n\n\n", "<td>", "</td>"]

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK_CJK = "[一-龥\u0800-一가-\ud7ff]+"

# name in GGUF: (patterns of isolated splits, then GPT-2's own cut or not, whole words first)
PRE = {
    "gpt-2": ([], True, False),
    "smollm": ([r"\p{N}"], True, False),
    "starcoder": ([r"\p{N}"], True, False),
    "llama-bpe": (
        [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES],
        False,
        True,
    ),
    "qwen2": (
        [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES],
        False,
        False,
    ),
    "qwen35": (
        [
            CONTRACTIONS
            + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
            + SPACES
        ],
        False,
        False,
    ),
    "gpt-4o": (
        [
            CASED_WORDS % (CONTRACTIONS + "?", CONTRACTIONS + "?")
            + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
            + SPACES
        ],
        False,
        False,
    ),
    "tekken": (
        [CASED_WORDS % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES],
        False,
        True,
    ),
    "deepseek-coder": (
        [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"],
        False,
        False,
    ),
    "deepseek-v3": (
        [
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES,
        ],
        False,
        False,
    ),
}
# Those without a pattern of their own here: llama.cpp alone is the reference.
LLAMA_ONLY = ["default", "deepseek-llm"]


def main() -> None:
    data, smollm2, gemma3 = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    texts = json.loads((data / "texts.json").read_text(encoding="utf-8"))
    golden = {}
    for name, path in (("smollm2", smollm2), ("gemma3", gemma3)):
        golden[name] = llama_ids(path, texts)

    bpe = train_bpe(texts)
    save(data / "bpe.json", bpe)
    for name in LLAMA_ONLY:
        golden[f"bpe/{name}"] = llama_ids(bpe_file(bpe, name), texts)
    ideographic = [i for i, t in enumerate(texts) if "\u3000" in t]
    golden["bpe/deepseek-llm"]["skip"] = ideographic
    for name in PRE:
        golden[f"bpe/{name}"] = compare(
            hf_bpe(bpe, name), llama_ids(bpe_file(bpe, name), texts), texts, name
        )

    spm = train_spm(texts)
    save(data / "spm.json", spm)
    control = {i for i, kind in enumerate(spm["types"]) if kind in (2, 3)}
    for name, prefix in (("spm/prefix", True), ("spm/plain", False)):
        golden[name] = llama_ids(spm_file(spm, prefix), texts)
        ids = golden[name]["text"]
        golden[name]["skip"] = [i for i, t in enumerate(ids) if control & set(t)]
        print(name, "skips", golden[name]["skip"])

    bert = train_bert(texts)
    save(data / "bert.json", bert)
    reference = llama_ids(bert_file(bert), texts)
    golden["bert/lower"] = compare(hf_bert(bert, True), reference, texts, "bert")
    golden["bert/cased"] = {"text": [hf_bert(bert, False).encode(t).ids for t in texts]}
    save(data / "golden.json", golden)


def save(path: Path, value: dict) -> None:
    """One line a key, so that changes can be read."""
    lines = ",\n".join(
        json.dumps(k) + ":" + json.dumps(v, ensure_ascii=False, separators=(",", ":"))
        for k, v in value.items()
    )
    path.write_text("{" + lines + "}\n", encoding="utf-8")


def llama_ids(path: str, texts: list) -> dict:
    llm = Llama(path, vocab_only=True, verbose=False)
    return {
        mode: [llm.tokenize(t.encode(), add_bos=False, special=special) if t else [] for t in texts]
        for mode, special in (("text", False), ("markup", True))
    }


def compare(hf: Tokenizer, llama: dict, texts: list, name: str) -> dict:
    ids = [hf.encode(t, add_special_tokens=False).ids for t in texts]
    differs = [i for i, (a, b) in enumerate(zip(ids, llama["text"])) if a != b]
    for i in differs:
        print(f"{name}: llama.cpp differs at {i}: {texts[i]!r}")
    return {"text": ids, "differs": differs}


def train_bpe(texts: list) -> dict:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2400,
        max_token_length=16,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    special = CONTROL + USER_DEFINED
    plain = [t for t in texts if not any(s in t for s in special)]
    tok.train_from_iterator(plain * 2, trainer)
    model = json.loads(tok.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    types = [1] * len(tokens) + [3] * len(CONTROL) + [4] * len(USER_DEFINED)
    merges = [" ".join(m) for m in model["merges"]]
    return {"tokens": tokens + CONTROL + USER_DEFINED, "types": types, "merges": merges}


def hf_bpe(bpe: dict, name: str) -> Tokenizer:
    patterns, gpt2, whole_words = PRE[name]
    plain = [t for t, kind in zip(bpe["tokens"], bpe["types"]) if kind == 1]
    # Places of control tokens stay taken, by texts that do not occur.
    vocab = {t: i for i, t in enumerate(plain)}
    vocab |= {f"\x00{i}": len(plain) + i for i in range(len(CONTROL))}
    merges = [tuple(m.split(" ")) for m in bpe["merges"]]
    tok = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    tok.pre_tokenizer = pre_tokenizers.Sequence(splits + [byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in USER_DEFINED])
    return tok


def train_spm(texts: list) -> dict:
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=2000, max_token_length=12, show_progress=False)
    tok.train_from_iterator(texts * 2, trainer)
    model = json.loads(tok.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    special = [*CONTROL, *USER_DEFINED, "</s>"]
    learnt = [t for t in learnt if "\n" not in t and t not in special]
    # a third of the characters has to go by bytes
    learnt = [t for i, t in enumerate(learnt) if len(t) > 1 or t.isascii() or t == "▁" or i % 3]
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    pieces += [(f"<0x{b:02X}>", 6, 0.0) for b in range(256)]
    pieces += [("\n\n", 4, 0.0), ("  ", 4, 0.0), ("<td>", 4, 0.0), ("<sep>", 3, 0.0)]
    # neighbours share a score, so that ties are met
    pieces += [(t, 1, -float(i // 2)) for i, t in enumerate(learnt)]
    tokens, types, scores = map(list, zip(*pieces))
    return {"tokens": tokens, "types": types, "scores": scores}


def train_bert(texts: list) -> dict:
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=300
    )
    tok.train_from_iterator(texts, trainer)
    vocab = tok.get_vocab()
    return {"tokens": sorted(vocab, key=vocab.get)}


def hf_bert(bert: dict, lowercase: bool) -> Tokenizer:
    vocab = {t: i for i, t in enumerate(bert["tokens"])}
    tok = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tok


def write(model: str, fill) -> str:
    path = tempfile.NamedTemporaryFile(suffix=".gguf", delete=False).name
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(512)
    w.add_embedding_length(8)
    w.add_block_count(1)
    w.add_feed_forward_length(8)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model(model)
    fill(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def bpe_file(bpe: dict, pre: str) -> str:
    def fill(w):
        w.add_tokenizer_pre(pre)
        w.add_token_list(bpe["tokens"])
        w.add_token_types(bpe["types"])
        w.add_token_merges(bpe["merges"])
        w.add_bos_token_id(len(bpe["tokens"]) - 8)
        w.add_eos_token_id(len(bpe["tokens"]) - 6)

    return write("gpt2", fill)


def spm_file(spm: dict, prefix: bool) -> str:
    def fill(w):
        w.add_token_list(spm["tokens"])
        w.add_token_types(spm["types"])
        w.add_token_scores(spm["scores"])
        w.add_add_space_prefix(prefix)
        w.add_unk_token_id(0)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)

    return write("llama", fill)


def bert_file(bert: dict) -> str:
    def fill(w):
        tokens = bert["tokens"]
        special = [t.startswith("[") and t.endswith("]") and len(t) > 2 for t in tokens]
        w.add_token_list([
            t if s else t[2:] if t.startswith("##") else "▁" + t for t, s in zip(tokens, special)
        ])
        w.add_token_types([3 if s else 1 for s in special])
        w.add_unk_token_id(1)
        w.add_bos_token_id(2)
        w.add_sep_token_id(3)
        w.add_pad_token_id(0)
        w.add_mask_token_id(4)

    return write("bert", fill)


if __name__ == "__main__":
    main()
