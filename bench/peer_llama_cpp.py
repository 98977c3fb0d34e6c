"""One run of llama.cpp through llama-cpp-python's low-level API: prefill and decode of a GGUF file, as one JSON line.
`peers.py` calls it.

Tokens are made up and not chosen from the logits, so a step is `llama_decode` and the logits of every sequence, no more.
"""
import argparse
import ctypes
import json
import resource
import statistics
import time

import llama_cpp
import numpy as np

CONTEXT_TOKENS = 64
WARM_STEPS = 3

# Held here, since the library keeps no reference.
QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Model:
    """A GGUF file."""

    def __init__(self, path):
        llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.handle:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.handle))
        self.hidden_size = llama_cpp.llama_model_n_embd(self.handle)


class Context:
    """Sequences of a model that are stepped together."""

    def __init__(self, model, sequences, tokens, threads, states=False):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * (-(-tokens // 256) * 256)
        params.n_batch = params.n_ubatch = max(512, sequences)
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = states
        self.model, self.handle = model, llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise SystemExit("llama.cpp cannot make a context")
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.lengths = [0] * sequences

    def step(self, tokens, wants_all=False):
        """Feeds a list of tokens to each sequence; the logits of each one's last token (or of all) can be asked for."""
        batch, slot = self.batch, 0
        for sequence, new in enumerate(tokens):
            for offset, token in enumerate(new):
                batch.token[slot] = token
                batch.pos[slot] = self.lengths[sequence] + offset
                batch.n_seq_id[slot] = 1
                batch.seq_id[slot][0] = sequence
                batch.logits[slot] = wants_all or offset + 1 == len(new)
                slot += 1
            self.lengths[sequence] += len(new)
        batch.n_tokens = slot
        if llama_cpp.llama_decode(self.handle, batch) != 0:
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.handle)

    def logits(self, slot):
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.handle, slot), (self.model.vocab_size,)).copy()

    def state(self, slot):
        """The state after the final norm."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self.handle, slot), (self.model.hidden_size,)).copy()

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.handle), True)
        self.lengths = [0] * len(self.lengths)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.handle)


def made_up_tokens(model, seed, count):
    return [4 + (i * 7919 + seed * 104729) % (min(model.vocab_size, 1000) - 4) for i in range(count)]


def prefill_tokens_per_sec(model, tokens, threads):
    context, secs = Context(model, 1, tokens, threads), []
    prompt = made_up_tokens(model, 1, tokens)
    for _ in range(4):
        context.clear()
        start = time.perf_counter()
        context.step([prompt])
        secs.append(time.perf_counter() - start)
    context.close()
    return tokens / statistics.median(secs[1:])


def decode_step_ms(model, batch, steps, threads):
    context, secs = Context(model, batch, CONTEXT_TOKENS + steps + WARM_STEPS, threads), []
    for sequence in range(batch):
        prompts = [[] for _ in range(batch)]
        prompts[sequence] = made_up_tokens(model, sequence, CONTEXT_TOKENS)
        context.step(prompts)
    for step in range(steps + WARM_STEPS):
        tokens = [[token] for token in made_up_tokens(model, step, batch)]
        start = time.perf_counter()
        context.step(tokens)
        secs.append(time.perf_counter() - start)
    context.close()
    return statistics.median(secs[WARM_STEPS:]) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--prompt_tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args()
    model = Model(args.gguf)
    result = {"prefill_tokens_per_sec": prefill_tokens_per_sec(model, args.prompt_tokens, args.threads), "decode": []}
    for batch in map(int, args.batch.split(",")):
        result["decode"].append({"batch": batch, "step_ms": decode_step_ms(model, batch, args.steps, args.threads)})
    result["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
