"""Peer on a GPU: transformers on torch, the same shapes with random weights, prefill and decode.

    python3 gpu_transformers.py 1.5b 8b            (pip: torch transformers)

For each shape one JSON line: tokens per second of the prefill (512 tokens) and of decoding at batch 1, 8 and 32 over a
context of 64 tokens, plain (`use_cache`, no states) and the way the paper's scripts do it (`output_hidden_states=True`,
all layers). bf16, scaled-dot-product attention, medians over steps.
"""
import json
import statistics
import sys
import time

import torch
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


def prefill(model):
    ids = torch.randint(0, 1000, (1, 512), device="cuda")
    secs = [timed(lambda: model(ids, use_cache=True, logits_to_keep=1))[0] for _ in range(5)]
    return 512 / statistics.median(secs[2:])


def decode(model, batch, states, steps=24):
    ids = torch.randint(0, 1000, (batch, 64), device="cuda")
    out = model(ids, use_cache=True, logits_to_keep=1)
    cache, secs = out.past_key_values, []
    token = out.logits[:, -1:].argmax(-1)
    for _ in range(steps):
        def step():
            out = model(token, past_key_values=cache, use_cache=True, output_hidden_states=states)
            return out.logits[:, -1:].argmax(-1)
        elapsed, token = timed(step)
        secs.append(elapsed)
    return statistics.median(secs[4:]) * 1e3


@torch.inference_mode()
def main():
    for name in sys.argv[1:]:
        model = build(name)
        result = {"model": name, "gpu": torch.cuda.get_device_name(), "prefill_tokens_per_sec": prefill(model)}
        for batch in (1, 8, 32):
            result[f"step_ms_batch_{batch}"] = decode(model, batch, False)
            result[f"step_ms_batch_{batch}_all_states"] = decode(model, batch, True)
        print(json.dumps(result), flush=True)
        del model
        torch.cuda.empty_cache()
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    best = min(timed(lambda: b.copy_(a))[0] for _ in range(8))
    print(json.dumps({"copy_gigabytes_per_sec": 2 * a.numel() / best / 1e9}))


if __name__ == "__main__":
    main()
