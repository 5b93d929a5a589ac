"""Vectors, scores and tokens of tiny RoBERTas, for crates/ferrum-models/tests/roberta.rs.

    pip install sentence-transformers sentencepiece protobuf
    python tools/golden/roberta.py crates/ferrum-models/tests/data/roberta.json [NORMALIZATION]

An XLM-R that makes embeddings (as multilingual-e5 and bge-m3), one that scores pairs (as bge-reranker), and
a plain RoBERTa; and a small Unigram tokenizer with the texts' tokens by the `tokenizers` package. The weights
follow from the tensors' names, as filled.py says. NORMALIZATION is a rule of sentencepiece's own, such as
nmt_nfkc, for the tokenizer's table in the place of the few rules below, which keep the file small.
Made with sentence-transformers 6.2.0, transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.3, torch 2.15.0.
"""
import io
import json
import sys
import tempfile
from pathlib import Path

import sentencepiece
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (PreTrainedTokenizerFast, RobertaConfig, RobertaModel, XLMRobertaConfig,
                          XLMRobertaForSequenceClassification, XLMRobertaModel)

from pooled import files, fill

CORPUS = """The quick brown fox jumps over the lazy dog. What is the capital of France? Paris is the capital of France.
A man is eating a piece of bread, and the girl is carrying a baby. query: how do I reset my password
passage: the committee met on Tuesday and read the report of the year before
Über die Straße führt eine Brücke. Die Königin und der König gehen über die Brücke in die Stadt.
¿Dónde está la biblioteca? La biblioteca está en la calle de la ciudad.
Où est la bibliothèque ? Le café est près de la rivière, et l'été est déjà là.
Привет, как дела? Столица Франции это Париж. Мост через реку ведёт в город.
今天天气很好。我们去公园散步吧。東京は日本の首都です。私は図書館で本を読みます。
서울은 대한민국의 수도이다. 나는 도서관에서 책을 읽는다.
مرحبا بالعالم باريس هي عاصمة فرنسا नमस्ते दुनिया पेरिस फ्रांस की राजधानी है
1 2 3 10 20 100 1984 3.14 😀 🎉 of the and is in la die und est""".splitlines()

TEXTS = [
    "", " ", "a", "  a  b   ", "the capital of France", "The  Capital\tof\nFrance\r\n", "query: what is the capital?",
    "Über die Straße führt eine Brücke.", "¿Dónde está la biblioteca?", "Où est le café ?", "Cafe\u0301 e\u0301te\u0301",
    "Привет, как дела?", "今天天气很好。", "東京は日本の首都です", "서울은 대한민국의", "مرحبا بالعالم", "नमस्ते दुनिया",
    "😀 and 🎉", "👩‍👩‍👧 family", "🇫🇷🇩🇪", "\u00a0no\u00a0break\u3000wide\u2003space", "ＦＵＬＬ ｗｉｄｔｈ １２３", "ﬁne ﬂow ½ ²",
    "zero\u200bwidth\ufeff", "nul\u0000here", "ctrl\u0001\u007f\u0085", "\u2581marks\u2581 \u2581here \u2581", "a\u2581b \u2581\u2581c",
    "<s>", "</s> x <pad>", "x <mask> y", " <mask>", "a<mask>b", "<unk> <x>", "<0x41> <0xE2>", "ÿþýü ŒœŠš", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈𐍉",
    "\ufdfa", "e\u0301\u0302\u0303\u0304", "\u0301", "x" * 60, "the " * 40, "qzqzqz QZQZ", "12345678901984", "l'été n'est-ce pas...",
    "한\u1112\u1161\u11ab", "กำ ราชอาณาจักร", "\u202eright to left\u202c", "a\r\n\r\nb", "\u0130stanbul ſ", "- – — … · •",
]
PAIRS = [("what is the capital of France", "Paris is the capital of France."), ("where is the bridge", "Die Brücke"), ("a", ""),
         ("", "今天天气很好。"), ("what is it", "stone " * 60), ("river " * 60, "stone " * 60)]
IDS = [[0, 20, 21, 22, 2], [0, 20, 1, 21, 1, 1, 22, 2], [1, 1, 1], [5] * 30]

# A few rules of NFKC and of those that sentencepiece adds to it: characters before and after.
RULES = {"\t": " ", "\n": " ", "\r": " ", "\r\n": " ", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u200b": "", "\ufeff": "",
         "\u0001": "", "\u007f": "", "e\u0301": "é", "E\u0301": "É", "ﬁ": "fi", "ﬂ": "fl", "½": "1\u20442", "²": "2", "…": "...",
         "\ufdfa": "صلى الله عليه وسلم", "ſ": "s", "\u1112\u1161\u11ab": "한", "ำ": "\u0e4d\u0e32",
         **{chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)}}


def pieces(root, rule):
    """Tokens with their scores, and the table of the normalisation."""
    options = {"normalization_rule_name": rule}
    if rule is None:
        rules = root / "rules.tsv"
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in RULES.items()))
        options = {"normalization_rule_tsv": str(rules)}
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=420, model_type="unigram", hard_vocab_limit=False,
        character_coverage=0.995, minloglevel=2, **options)
    proto = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    found = [(piece.piece, piece.score) for piece in proto.pieces]
    return found[3:], proto.normalizer_spec.precompiled_charsmap


def unigram(root, rule):
    """As transformers converts the tokenizer of an XLM-R."""
    tokens, charsmap = pieces(root, rule)
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *tokens, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab=vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"], special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer, len(vocab)


def variants(base):
    """Other ways of the same vocabulary: what of the file is another."""
    tokenizer = lambda: Tokenizer.from_str(base.to_str())
    metaspace = tokenizer()
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    # As transformers converts others than XLM-R.
    stripped = tokenizer()
    stripped.normalizer = normalizers.Sequence(
        [base.normalizer, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    stripped.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    whole = tokenizer()
    whole.normalizer = normalizers.NFKC()
    whole.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    whole.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="never")
    model = json.loads(base.to_str())["model"]
    vocab = [*map(tuple, model["vocab"]), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    spelled = tokenizer()
    spelled.model = models.Unigram(vocab=vocab, unk_id=3, byte_fallback=True)
    spelled.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return {"xlm-r": base, "metaspace": metaspace, "stripped": stripped, "whole": whole, "bytes": spelled}


def difference(base, other):
    base, other = (json.loads(tokenizer.to_str()) for tokenizer in (base, other))
    found = {key: value for key, value in other.items() if key != "model" and value != base[key]}
    # Of the model it is byte_fallback alone: the test adds the tokens of bytes.
    fallback = other["model"]["byte_fallback"]
    return found | ({"model": {"byte_fallback": True}} if fallback else {})


def tokens(base):
    out = {}
    for name, tokenizer in variants(base).items():
        encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        decoded = [tokenizer.decode(ids) for ids in encoded]
        out[name] = {"change": difference(base, tokenizer), "ids": encoded, "decoded": decoded}
    return out


def wrapped(tokenizer, longest):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
                                   pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=longest)


def sizes(vocab):
    return dict(vocab_size=vocab, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
                max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2)


def numbers(vectors):
    return [[float(f"{x:.7g}") for x in vector] for vector in vectors.tolist()]


def shared(found):
    """The files, but for the tokenizer of the golden file itself."""
    found.pop("tokenizer.json")
    return found


def embedder(root, base, vocab):
    inner, outer = root / "inner", root / "outer"
    XLMRobertaModel(XLMRobertaConfig(**sizes(vocab))).save_pretrained(inner)
    wrapped(base, 64).save_pretrained(inner)
    tensors = fill(inner)
    model = SentenceTransformer(modules=[Transformer(str(inner)), Pooling(64, pooling_mode="mean"), Normalize()], device="cpu")
    model.save_pretrained(str(outer))
    model = SentenceTransformer(str(outer), device="cpu")
    ids = model.tokenizer(TEXTS, truncation=True, max_length=64)["input_ids"]
    # Of ids that hold padding, all of it attended: positions jump there.
    raw = [model[0].auto_model(torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)) for row in IDS]
    raw = torch.stack([torch.nn.functional.normalize(out.last_hidden_state[0].mean(0), dim=0) for out in raw])
    return {"files": shared(files(outer)), "tensors": tensors, "ids": ids, "vectors": numbers(model.encode(TEXTS, batch_size=8)),
            "raw": IDS, "raw_vectors": numbers(raw.detach())}


def cross(root, base, vocab):
    inner = root / "cross"
    XLMRobertaForSequenceClassification(XLMRobertaConfig(**sizes(vocab), num_labels=1)).save_pretrained(inner)
    wrapped(base, 64).save_pretrained(inner)
    tensors = fill(inner)
    model = CrossEncoder(str(inner), device="cpu")
    ids = model.tokenizer(*map(list, zip(*PAIRS)), truncation=True, max_length=64)["input_ids"]
    scores = model.predict(PAIRS, batch_size=4).tolist()
    return {"files": shared(files(inner)), "tensors": tensors, "pairs": PAIRS, "ids": ids, "scores": [float(f"{x:.7g}") for x in scores]}


def plain(root):
    """Byte-level BPE without merges, as RoBERTa's but for these."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["<mask>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    folder, texts = root / "plain", ["The capital", "", "Über x <mask>"]
    RobertaModel(RobertaConfig(**sizes(len(tokens)))).save_pretrained(folder)
    wrapped(tokenizer, 64).save_pretrained(folder)
    tensors = fill(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    ids = model.tokenizer(texts)["input_ids"]
    return {"files": files(folder), "tensors": tensors, "texts": texts, "ids": ids, "vectors": numbers(model.encode(texts))}


def main(out, rule=None):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        base, vocab = unigram(root, rule)
        golden = {"made_by": "tools/golden/roberta.py", "tokenizer": json.loads(base.to_str()), "texts": TEXTS, "tokens": tokens(base),
                  "embedder": embedder(root, base, vocab), "cross": cross(root, base, vocab), "plain": plain(root)}
    Path(out).write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(vocab, golden["cross"]["scores"], golden["embedder"]["vectors"][4][:4])


if __name__ == "__main__":
    main(*sys.argv[1:])
