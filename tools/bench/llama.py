#!/usr/bin/env python3
"""llama.cpp's side of `cargo xtask bench-peers`: one measurement, its speeds as JSON.

    pip install llama-cpp-python==0.3.36
    llama.py MODEL.gguf prefill --tokens 512 [--threads 2] [--repetitions 3]
    llama.py MODEL.gguf decode --tokens 64 [--depth 4096] [--batch 16]

Done as `ferrum bench` does it: random tokens, no sampling, one pass to warm up, logits of the last
token of each sequence. Flash attention is on, the KV cache in f16, batches are those of llama.cpp's
own interface with a cache per sequence.
"""
import argparse
import json
import sys
import time

import llama_cpp as llama

# A step of a prompt, as in llama.cpp's programs.
STEP_TOKENS = 512


class Context:
    """A model with the cache of `batch` sequences."""

    def __init__(self, a: argparse.Namespace) -> None:
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(a.model.encode(), llama.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot load {a.model}")
        p = llama.llama_context_default_params()
        p.n_ctx = a.batch * -(-(a.depth + a.tokens + 8) // 256) * 256
        p.n_seq_max = a.batch
        p.n_batch = p.n_ubatch = STEP_TOKENS
        p.n_threads = p.n_threads_batch = a.threads
        p.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        p.type_k = p.type_v = llama.GGML_TYPE_F16
        # What programs do: layers with a window keep no more than the window.
        p.swa_full = False
        self.context = llama.llama_init_from_model(self.model, p)
        if not self.context:
            sys.exit(f"llama.cpp cannot make a context for {a.model}")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.step = llama.llama_batch_init(STEP_TOKENS, 0, 1)
        self.seqs = a.batch
        self.len = 0
        self.random = 1

    def append(self, each: int, logits: bool) -> None:
        """Appends `each` tokens to every sequence, in one step."""
        step, n = self.step, 0
        for seq in range(self.seqs):
            for i in range(each):
                self.random = (self.random * 6364136223846793005 + 1442695040888963407) % 2**64
                step.token[n] = (self.random >> 33) % self.vocab
                step.pos[n] = self.len + i
                step.n_seq_id[n] = 1
                step.seq_id[n][0] = seq
                step.logits[n] = logits and i == each - 1
                n += 1
        step.n_tokens = n
        failed = llama.llama_decode(self.context, step)
        if failed:
            sys.exit(f"llama_decode: {failed}")
        if logits:
            for seq in range(self.seqs):
                llama.llama_get_logits_ith(self.context, seq * each + each - 1)
        llama.llama_synchronize(self.context)
        self.len += each

    def read(self, tokens: int) -> None:
        """Appends a prompt to every sequence."""
        while tokens > 0:
            now = min(tokens, max(1, STEP_TOKENS // self.seqs))
            tokens -= now
            self.append(now, logits=tokens == 0)

    def generate(self, tokens: int) -> None:
        """Appends to every sequence, a token a step."""
        for _ in range(tokens):
            self.append(1, logits=True)

    def clear(self) -> None:
        """Forgets everything."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        self.len = 0


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("test", choices=["prefill", "decode"])
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--depth", type=int, default=0)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repetitions", type=int, default=3)
    a = p.parse_args()
    context = Context(a)
    run = context.read if a.test == "prefill" else context.generate
    speeds = []
    # Behind a prompt there is one repetition: a cache with windows cannot be cut back.
    for repetition in range(a.repetitions + 1 if a.depth == 0 else 1):
        context.clear()
        context.read(a.depth)
        if a.depth > 0:
            context.generate(2)
        start = time.perf_counter()
        run(a.tokens)
        seconds = time.perf_counter() - start
        if repetition > 0 or a.depth > 0:
            speeds.append(a.tokens * a.batch / seconds)
    print(json.dumps({"version": llama.__version__, "tps": speeds}))


if __name__ == "__main__":
    main()
