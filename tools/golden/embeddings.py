"""Reference embeddings of sentence-transformers, for crates/ferrum-models/tests/embeddings.rs.

    pip install sentence-transformers
    python tools/golden/embeddings.py FOLDER OUT.json

FOLDER is the model (`ferrum pull minilm` prints where it is), OUT.json gets 50 texts with their token
ids and the vectors in half precision, all of them one after the other in base64. The rounding
moves a vector by an angle whose cosine is above 1 - 1e-7.
"""

import base64
import importlib.metadata
import json
import sys

import numpy
from sentence_transformers import SentenceTransformer

TEXTS = [
    "This is an example sentence", "Each sentence is converted", "", " ", "a", "Hello, world!",
    "The quick brown fox jumps over the lazy dog.", "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG.",
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
    "A man is riding a horse.", "A woman is playing violin.", "Two men pushed carts through the woods.",
    "A monkey is playing drums.", "A cheetah is running behind its prey.",
    "How do I reset my password?", "Where can I change my login credentials?",
    "What is the capital of France?", "Paris is the capital and largest city of France.",
    "E = mc²", "x² + y² = r²; ∫ f(x) dx → ∞", "naïve café résumé coöperate Ångström Čapek",
    "Über die Straße führt eine Brücke.", "¿Dónde está la biblioteca?", "Привет, как дела?",
    "今天天气很好。", "東京は日本の首都です。", "서울은 대한민국의 수도이다.", "مرحبا بالعالم",
    "नमस्ते दुनिया", "😀 emoji 🎉 in text 👩‍👩‍👧", "tabs\tand\nnewlines\r\nand  double  spaces",
    "zero\u200bwidth and soft\u00adhyphen and nul\u0000", "[CLS] is not a token here [SEP], [MASK] neither",
    "##ing ## #hash-tag @user user@example.com", "https://www.example.org/path?query=1&x=%20#frag",
    "fn main() { println!(\"{}\", 1 << 3); }", "SELECT name FROM users WHERE id = 42;",
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "x" * 99, "y" * 101,
    "1234567890 3.14159 1,000,000 $99.95 50% 2nd", "I'm can't won't it's they've",
    "\"quoted\" 'single' “curly” ‘one’ «guillemets»", "- – — … · •",
    "Mitochondria are the powerhouse of the cell, a fact that every student of biology remembers long "
    "after the examination in which it was asked for.",
    "word " * 100, "The committee met on Tuesday. " * 30,
    "In the beginning the Universe was created. This has made a lot of people very angry and been "
    "widely regarded as a bad move.",
]


def main(folder: str, out: str) -> None:
    model = SentenceTransformer(folder, device="cpu")
    assert len(TEXTS) == 50
    vectors = model.encode(TEXTS, batch_size=8).astype(numpy.float32)
    ids = [model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"] for text in TEXTS]
    packages = ["sentence-transformers", "transformers", "torch"]
    versions = {name: importlib.metadata.version(name) for name in packages}
    reference = {
        "made_by": {"script": "tools/golden/embeddings.py", **versions},
        "width": int(vectors.shape[1]),
        "vectors": base64.b64encode(vectors.astype("<f2").tobytes()).decode(),
        "texts": [{"text": text, "ids": i} for text, i in zip(TEXTS, ids)],
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(reference, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
