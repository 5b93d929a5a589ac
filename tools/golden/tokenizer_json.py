"""Makes the data of crates/ferrum-models/tests/tokenizer_json.rs.

    pip install tokenizers      (0.23.3 was used)
    python tools/golden/tokenizer_json.py crates/ferrum-models/tests/data/tokenizer

Reads texts.json and bpe.json; trains a small vocabulary of characters (chars.json). Writes json.json:
for each case what a tokenizer.json says beside the vocabulary, as the models named have it, and the
ids and texts that Hugging Face's tokenizers gives: `ids` with added tokens found in the text, `around`
of the first texts with the post-processor, `decoded` without special tokens. Writes json-random.json
likewise for these and further cases, over random texts.
"""

import json
import random
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


# Added tokens: text, special, and the flags that are not their defaults.
EXTRA = [
    ("Hello", False, {}), ("hello world", False, {"normalized": True}), ("Tok", False, {"single_word": True}),
    ("漢字", False, {"single_word": True, "normalized": True}), ("<L>", False, {"lstrip": True, "normalized": True}),
    ("<R>", False, {"rstrip": True}), ("<B>", True, {"lstrip": True, "rstrip": True}),
    ("\n", False, {}), ("<r>", False, {"rstrip": True, "normalized": True, "single_word": True}),
]


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def splits(*parts):
    return sequence("pretokenizers", *parts, byte_level(False))


# Further cases: the same, with EXTRA.
MORE = {
    "added-plain": ("bpe", None, byte_level(True), None, BYTES, {}),
    "added-lower": ("bpe", sequence("normalizers", {"type": "Lowercase"}, {"type": "NFC"}), byte_level(True), None, BYTES, {}),
    "added-prefix": ("bpe", {"type": "NFKC"}, byte_level(True, True), None, BYTES, {}),
    "added-llama2": ("chars", sequence("normalizers", PREPEND, REPLACE), None, None,
                     sequence("decoders", UNMARK, FALLBACK, FUSE, STRIP), {}),
    "added-metaspace": ("chars", None, metaspace("first"), None, metaspace("first"), {"byte_fallback": False}),
    "added-always": ("chars", {"type": "Lowercase"}, metaspace("always"), None, metaspace("always"), {"byte_fallback": False}),
    "lines": ("bpe", None, splits(split(r"^\s*\w|\w$|[.!?]$"), split(r"^.", "MergedWithNext")), None, BYTES, {}),
    "line-ends": ("bpe", None, splits(split(r"$"), split(r"\s+$", "MergedWithPrevious")), None, BYTES, {}),
    "empty": ("bpe", None, splits(split(r"\p{L}*"), split(r"\d?", "Contiguous")), None, BYTES, {}),
    "empty-next": ("bpe", None, splits(split(r" ?", "MergedWithNext")), None, BYTES, {}),
    "empty-previous": ("bpe", None, splits(split(r"[a-m]*", "MergedWithPrevious", True)), None, BYTES, {}),
    "empty-removed": ("bpe", None, splits(split(r"x*|-", "Removed")), None, BYTES, {}),
    "words": ("bpe", None, splits({"type": "Whitespace"}), None, BYTES, {}),
    "not-words": ("bpe", None, splits(split(r"\W+|_", "MergedWithNext"), split(r"[^\w ]\s?")), None, BYTES, {}),
    "case": ("bpe", None, splits(split(r"(?i:he|k|[a-e]x)|(?-i:Tok)|\p{Lu}+")), None, BYTES, {}),
    "case-all": ("bpe", None, splits(split(r"(?i)tok|s\p{L}|k")), None, BYTES, {}),
    "white-space": ("bpe", None, splits({"type": "WhitespaceSplit"}), None, BYTES, {}),
    "replaced": ("bpe", sequence("normalizers", replace(r"\s+", " "), replace(r"(?:^| )-+", "<$0>")), byte_level(True), None, BYTES, {}),
}


def random_texts(count):
    rng = random.Random(20261128)
    pieces = ["Hello", "hello world", "HELLO WORLD", "Tok", "Toks", "é", "É", "漢字漢", "e\u0301", "<L>", "<l>", "<R>", "<r>", "<B>",
              "<s>", "\n", "\n\n", "\r\n", "\t", " ", "  ", "   ", "\u00a0", "\u3000", "\u2028", "\u0085", "a", "k", "K",
              "\u212a", "s", "\u017f", "ss", "ß", "ﬁ", "x", "ex", "Ab", "-", "--", "_", ".", "!", "?", "$0", "1", "23", "½", "Ⅷ",
              "²", "Ⓐ", "\u200d", "\u200b", "漢字", "かな", "한글", "ไทย", "العربية", "👩\u200d👧", "▁", "Ġ", "foo", "ooze", "<td>", "'s", "'S"]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(count)]


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
    base, normalizer, pre, post, decoder, changes = (CASES | MORE)[case]
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
    if case in MORE:
        first = 1 + max([len(tokens) - 1, *(t["id"] for t in added)])
        added += [dict(id=first + i, content=t, special=s, **{"lstrip": False, "rstrip": False, **flags, **own})
                  for i, (t, s, own) in enumerate(e for e in EXTRA if e[0] not in vocab)]
    post = json.loads(json.dumps(post))
    for part in [post, *((post or {}).get("processors") or [])]:
        if part and part["type"] == "TemplateProcessing":
            part["special_tokens"] = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in part.pop("special")}
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
             "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder}
    whole = {**parts, "model": {**model, "vocab": vocab, "merges": merges}}
    return Tokenizer.from_str(json.dumps(whole)), base, {**parts, "model": model}


def survives(text, data):
    """The package panics where a token lies within white space that went with the one before it."""
    for case in MORE:
        try:
            data.setdefault(case, tokenizer(case, data))[0].encode(text)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            print("panics:", case, repr(text))
            return False
    return True


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
    texts, lines = [t for t in random_texts(90) if survives(t, data)][:60], []
    for case in CASES | MORE:
        tok, base, parts = tokenizer(case, data)
        ids = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        golden = {"base": base, "file": parts, "ids": ids,
                  "decoded": [tok.decode(i, skip_special_tokens=True) for i in ids]}
        lines.append(dump(case) + ":" + dump(golden))
    whole = '{"texts":' + dump(texts) + ',\n"cases":{' + ",\n".join(lines) + "}}\n"
    (folder / "json-random.json").write_text(whole, encoding="utf-8")


main()
