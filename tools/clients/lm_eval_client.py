#!/usr/bin/env python3
"""Score a running server with lm-eval's `local-completions`, on two small tasks made here.

    pip install 'lm-eval[api]'
    lm_eval_client.py --url http://127.0.0.1:8080 [--model NAME]

Nothing is downloaded: lm-eval tokenizes by the server's own routes. One task picks an answer by
log-likelihood, the other takes the perplexity of sentences; a sentence with its words in another
order must be less likely.
"""
import argparse
import json
import os
import tempfile

import lm_eval
from lm_eval.tasks import TaskManager

FACTS = [
    ("The capital of France is", ["Paris", "London", "Rome", "Madrid"]),
    ("The opposite of hot is", ["cold", "tall", "green", "loud"]),
    ("Grass is usually the colour", ["green", "purple", "white", "black"]),
    ("Two plus two is", ["four", "nine", "seven", "twelve"]),
    ("A baby cat is called a", ["kitten", "puppy", "calf", "lamb"]),
    ("Water freezes and turns into", ["ice", "sand", "smoke", "gold"]),
    ("The Earth goes around the", ["Sun", "Moon", "sea", "house"]),
    ("Bees make", ["honey", "milk", "paper", "wine"]),
    ("People read books with their", ["eyes", "feet", "hats", "cars"]),
    ("The day after Monday is", ["Tuesday", "Sunday", "Friday", "Saturday"]),
    ("At night the sky is", ["dark", "sweet", "square", "wet"]),
    ("A bird can fly because it has", ["wings", "wheels", "roots", "pages"]),
]
SENTENCES = [
    "The old man sat down by the fire and began to read a long letter from his son.",
    "In the spring the river rises, and the fields along its banks are covered with water.",
    "She opened the window because the room was too warm, and the noise of the street came in.",
    "Children learn to speak by listening to the people around them every day.",
]
CHOICE = """
task: ferrum_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/facts.json}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
ROLLING = """
task: ferrum_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{name}.json}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: byte_perplexity}}]
"""


def write_tasks(folder):
    def save(name, rows):
        with open(f"{folder}/{name}.json", "w") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)

    save("facts", [{"question": q, "choices": c} for q, c in FACTS])
    save("sentences", [{"text": s} for s in SENTENCES])
    save("jumbled", [{"text": " ".join(sorted(s.split()))} for s in SENTENCES])
    for name, task in [("facts", CHOICE), ("sentences", ROLLING), ("jumbled", ROLLING)]:
        with open(f"{folder}/{name}.yaml", "w") as f:
            f.write(task.format(folder=folder, name=name))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--key", default="none")
    p.add_argument("--model", default="default")
    a = p.parse_args()
    os.environ["OPENAI_API_KEY"] = a.key
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(folder)
        results = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={"model": a.model, "base_url": a.url + "/v1/completions", "max_length": 2048,
                        "tokenizer_backend": "remote", "num_concurrent": 4},
            tasks=["ferrum_facts", "ferrum_sentences", "ferrum_jumbled"],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            batch_size=1, bootstrap_iters=0)["results"]
    accuracy = results["ferrum_facts"]["acc,none"]
    plain, jumbled = (results[f"ferrum_{name}"]["byte_perplexity,none"] for name in ("sentences", "jumbled"))
    print(f"accuracy {accuracy:.2f}, perplexity of a byte {plain:.3f}, with the words jumbled {jumbled:.3f}")
    assert accuracy >= 0.75, "chance is 0.25"
    assert 1.0 < plain < 3.0 and plain < 0.8 * jumbled


main()
