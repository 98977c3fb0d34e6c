"""Peer on a GPU: transformers on torch, the same shapes with random weights, prefill and decode.

    python3 gpu_transformers.py 1.5b 8b            (pip: torch transformers)

For each shape one JSON line: tokens per second of the prefill (512 tokens) and milliseconds of a decode step at batch 1, 8
and 32 over a context of 64 tokens, measured as `peer_transformers.py` says: a bare loop of forward passes, `generate`, and
`generate` with all layers' states as the paper's scripts call it. bf16, scaled-dot-product attention, medians over steps.
"""
import json
import sys
import time

import torch
from peer_transformers import decode, prefill_tokens_per_sec
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHAPES = {  # d, inner width, layers, heads, key/value heads, vocabulary
    "0.5b": (896, 4864, 24, 14, 2, 151936),
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
    "8b": (4096, 14336, 32, 32, 8, 128256),
    "32b": (5120, 27648, 64, 40, 8, 152064),
}


def build(name):
    d, inner, layers, heads, kv_heads, vocab = SHAPES[name]
    kind, model = (LlamaConfig, LlamaForCausalLM) if name == "8b" else (Qwen2Config, Qwen2ForCausalLM)
    config = kind(hidden_size=d, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv_heads, vocab_size=vocab, max_position_embeddings=131072,
                  tie_word_embeddings=d <= 1536)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return model(config).eval()


def timed(run):
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, out


@torch.inference_mode()
def main():
    for name in sys.argv[1:]:
        model = build(name)
        result = {"model": name, "gpu": torch.cuda.get_device_name(), "decode": [],
                  "prefill_tokens_per_sec": prefill_tokens_per_sec(model, 512)}
        for batch in (1, 8, 32):
            decode(model, batch, 8)  # Whatever a batch size costs once, no column shall pay for the others.
            result["decode"].append(decode(model, batch, 32))
        print(json.dumps(result), flush=True)
        del model
        torch.cuda.empty_cache()
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    best = min(timed(lambda: b.copy_(a))[0] for _ in range(8))
    print(json.dumps({"copy_gigabytes_per_sec": 2 * a.numel() / best / 1e9}))


if __name__ == "__main__":
    main()
