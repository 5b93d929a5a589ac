"""llama.cpp's C interface, as far as the scripts beside this one need it.

    pip install llama-cpp-python==0.3.36 numpy

The package builds the library, which takes a quarter of an hour.
"""

import ctypes

import llama_cpp as lib
import numpy as np


@lib.llama_log_callback
def _log(level, text, _):
    # Errors only.
    if level == 4:
        print(text.decode(), end="", flush=True)


lib.llama_log_set(_log, ctypes.c_void_p(0))
lib.llama_backend_init()


def quantize(source, target, file_type, threads=2):
    """A GGUF file with other formats."""
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, threads
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize: {code}")


class Model:
    """A model with one sequence. The KV cache is of single precision, which asks for no flash attention."""

    def __init__(self, path, context=256, threads=2):
        params = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError("the model cannot be loaded")
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        params.swa_full = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("there is no context")
        self.vocab = lib.llama_model_get_vocab(self.model)

    def tokens(self, text):
        """The tokens of a prompt, with those that the model wants around it."""
        data = text.encode()
        out = (lib.llama_token * (len(data) + 8))()
        count = lib.llama_tokenize(self.vocab, data, len(data), out, len(out), True, False)
        return list(out[:count])

    def text(self, tokens):
        out, data = b"", ctypes.create_string_buffer(256)
        for token in tokens:
            count = lib.llama_token_to_piece(self.vocab, token, data, len(data), 0, False)
            out += data.raw[:count]
        return out.decode(errors="replace")

    def logits(self, tokens):
        """The logits after these tokens, which follow those of the last call."""
        data = (lib.llama_token * len(tokens))(*tokens)
        if lib.llama_decode(self.context, lib.llama_batch_get_one(data, len(tokens))) != 0:
            raise RuntimeError("llama_decode")
        row = lib.llama_get_logits_ith(self.context, -1)
        return np.array(row[: lib.llama_vocab_n_tokens(self.vocab)], dtype=np.float64)

    def greedy(self, prompt, count):
        """A continuation by the likeliest tokens."""
        found, tokens = [], self.tokens(prompt)
        while len(found) < count:
            token = int(self.logits(tokens).argmax())
            if lib.llama_vocab_is_eog(self.vocab, token):
                break
            found.append(token)
            tokens = [token]
        return self.text(found)
