"""Makes the data of crates/ferrum-models/tests/tokenizer_json.rs.

    pip install tokenizers      (0.23.3 was used)
    python tools/golden/tokenizer_json.py crates/ferrum-models/tests/data/tokenizer

Reads texts.json and bpe.json; trains a small vocabulary of characters (chars.json). Writes json.json:
for each case what a tokenizer.json says beside the vocabulary, as the models named have it, and the
ids and texts that Hugging Face's tokenizers gives: `ids` with added tokens found in the text, `around`
of the first texts with the post-processor, `decoded` without special tokens.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPLITS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(regex, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def template(front, back=()):
    item = lambda t: {"SpecialToken": {"id": t, "type_id": 0}}
    single = [*map(item, front), {"Sequence": {"id": "A", "type_id": 0}}, *map(item, back)]
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}], "special": [*front, *back]}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
UNMARK = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
BYTES = byte_level(True, True)


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


# Vocabulary, normalizer, pre-tokenizer, post-processor, decoder, changes of the model.
CASES = {
    "gpt2": ("bpe", None, byte_level(True), byte_level(True), BYTES, {}),
    "gpt2-prefix": ("bpe", None, byte_level(True, True), None, BYTES, {}),
    "qwen2": ("bpe", {"type": "NFC"},
              sequence("pretokenizers", split(SPLITS["qwen2"]), byte_level(False)),
              byte_level(False), BYTES, {}),
    "llama3": ("bpe", None, sequence("pretokenizers", split(SPLITS["llama3"]), byte_level(False)),
               sequence("processors", byte_level(True), template(["<s>"])), BYTES, {"ignore_merges": True}),
    "smollm": ("bpe", None,
               sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(True)),
               None, BYTES, {}),
    "punctuation": ("bpe", None,
               sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"},
                        {"type": "Digits", "individual_digits": False},
                        split("[0-9][0-9][0-9]"), byte_level(True)),
               None, BYTES, {}),
    "inverted": ("bpe", {"type": "Lowercase"},
                 sequence("pretokenizers", split(r"\p{L}+|[^\p{L}]+", "Removed", True), byte_level(False)),
                 None, BYTES, {}),
    "with-next": ("bpe", {"type": "NFKD"},
                  sequence("pretokenizers", split(" ", "MergedWithNext", kind="String"), byte_level(False)),
                  None, BYTES, {}),
    "with-previous": ("bpe", {"type": "Strip", "strip_left": True, "strip_right": True},
                      sequence("pretokenizers", split("a", "MergedWithPrevious", kind="String"), byte_level(False)),
                      None, BYTES, {}),
    "llama2": ("chars", sequence("normalizers", PREPEND, REPLACE), None, template(["<s>"]),
               sequence("decoders", UNMARK, FALLBACK, FUSE, STRIP), {}),
    "gemma": ("chars", REPLACE, split(" ", "MergedWithPrevious", kind="String"),
              template(["<s>"], ["</s>"]), sequence("decoders", UNMARK, FALLBACK, FUSE), {"fuse_unk": True}),
    "metaspace-first": ("chars", None, metaspace("first"), None,
                        metaspace("first"), {"byte_fallback": False, "fuse_unk": True}),
    "metaspace-always": ("chars", {"type": "NFKC"}, metaspace("always", False), None,
                         metaspace("always", False), {"byte_fallback": False, "fuse_unk": False}),
}


def train_chars(texts):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=1000, max_token_length=10, show_progress=False)
    tok.train_from_iterator([t for t in texts if "<" not in t] * 2, trainer)
    model = json.loads(tok.to_str())["model"]
    front = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    # a third of the characters has to go by bytes
    gone = {t for i, t in enumerate(learnt) if len(t) == 1 and not t.isascii() and t != "▁" and i % 3 == 0}
    learnt = [t for t in learnt if not gone & set(t)]
    merges = [m for m in model["merges"] if not gone & set("".join(m))]
    return {"tokens": front + learnt, "merges": merges}


def tokenizer(case, data):
    base, normalizer, pre, post, decoder, changes = CASES[case]
    tokens, merges = data[base]["tokens"], data[base]["merges"]
    if base == "bpe":
        kinds = data["bpe"]["types"]
        added = [(i, t, k == 3) for i, (t, k) in enumerate(zip(tokens, kinds)) if k != 1]
        model = {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": False}
        vocab = {t: i for i, (t, k) in enumerate(zip(tokens, kinds)) if k == 1}
    else:
        added = [(0, "<unk>", True), (1, "<s>", True), (2, "</s>", True)]
        added += [(len(tokens), "<td>", False), (len(tokens) + 1, "<|im_end|>", True)]
        model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        vocab = {t: i for i, t in enumerate(tokens)}
    model |= {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "ignore_merges": False, **changes}
    ids = {t: i for i, t, _ in added}
    flags = dict(single_word=False, normalized=False)
    added = [dict(id=i, content=t, special=s, lstrip=t == "<td>", rstrip=t == "<|im_end|>", **flags)
             for i, t, s in added]
    post = json.loads(json.dumps(post))
    for part in [post, *((post or {}).get("processors") or [])]:
        if part and part["type"] == "TemplateProcessing":
            part["special_tokens"] = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in part.pop("special")}
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
             "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder}
    whole = {**parts, "model": {**model, "vocab": vocab, "merges": merges}}
    return Tokenizer.from_str(json.dumps(whole)), base, {**parts, "model": model}


def main():
    folder = Path(sys.argv[1])
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    data = {"bpe": json.loads((folder / "bpe.json").read_text(encoding="utf-8")), "chars": train_chars(texts)}
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (folder / "chars.json").write_text(dump(data["chars"]) + "\n", encoding="utf-8")
    lines = []
    for case in CASES:
        tok, base, parts = tokenizer(case, data)
        ids = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        golden = {"base": base, "file": parts, "ids": ids,
                  "around": [tok.encode(t).ids for t in texts[:8]],
                  "decoded": [tok.decode(i, skip_special_tokens=True) for i in ids]}
        lines.append(dump(case) + ":" + dump(golden))
        print(case, sum(map(len, ids)), "tokens")
    (folder / "json.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


main()
