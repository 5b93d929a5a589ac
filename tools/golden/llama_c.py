"""llama.cpp's C interface, as far as the scripts beside this one need it.

    pip install llama-cpp-py-sync==0.11739 numpy

The package has the library built, which llama-cpp-python builds for a quarter of an hour.
"""

import numpy as np
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

ffi, lib = get_ffi(), get_lib()


@ffi.callback("void(enum ggml_log_level, const char *, void *)")
def _log(level, text, _):
    # Errors only.
    if level == 4:
        print(ffi.string(text).decode(), end="", flush=True)


lib.llama_log_set(_log, ffi.NULL)
lib.llama_backend_init()


def quantize(source, target, file_type, threads=2):
    """A GGUF file with other formats."""
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, threads
    params = ffi.new("llama_model_quantize_params *", params)
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code != 0:
        raise RuntimeError(f"llama_model_quantize: {code}")


class Model:
    """A model with one sequence. The KV cache is of single precision, which asks for no flash attention."""

    def __init__(self, path, context=256, threads=2):
        params = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if self.model == ffi.NULL:
            raise RuntimeError("the model cannot be loaded")
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        params.swa_full = True
        self.context = lib.llama_init_from_model(self.model, params)
        if self.context == ffi.NULL:
            raise RuntimeError("there is no context")
        self.vocab = lib.llama_model_get_vocab(self.model)

    def tokens(self, text):
        """The tokens of a prompt, with those that the model wants around it."""
        data = text.encode()
        out = ffi.new("int32_t[]", len(data) + 8)
        count = lib.llama_tokenize(self.vocab, data, len(data), out, len(data) + 8, True, False)
        return list(out[0:count])

    def text(self, tokens):
        out, data = b"", ffi.new("char[]", 256)
        for token in tokens:
            count = lib.llama_token_to_piece(self.vocab, token, data, 256, 0, False)
            out += ffi.buffer(data, count)[:]
        return out.decode(errors="replace")

    def logits(self, tokens):
        """The logits after these tokens, which follow those of the last call."""
        data = ffi.new("int32_t[]", tokens)
        if lib.llama_decode(self.context, lib.llama_batch_get_one(data, len(tokens))) != 0:
            raise RuntimeError("llama_decode")
        row = lib.llama_get_logits_ith(self.context, -1)
        return np.array(ffi.unpack(row, lib.llama_vocab_n_tokens(self.vocab)), dtype=np.float64)

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
