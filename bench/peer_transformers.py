"""One run of transformers on torch: prefill and decode of a checkpoint, as one JSON line. `peers.py` and
`gpu_transformers.py` call it.

Decoding is timed in three ways: a bare loop of the model's forward pass and a greedy choice, the least that transformers
can do; `generate`, from step to step; and `generate` as the paper's scripts call it (`output_hidden_states=True,
return_dict_in_generate=True`), which keeps the states of all layers and steps. The last two are the same loop, so their
difference is the cost of the states. Medians over steps; the first ones are left out.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

CONTEXT_TOKENS = 64
WARM_STEPS = 3


class Clock(StoppingCriteria):
    """Notes the time after each step and stops nothing."""

    def __init__(self, device):
        self.device, self.times = device, []

    def __call__(self, input_ids, scores, **_):
        synchronise(self.device)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def step_ms(self):
        gaps = [after - before for before, after in zip(self.times, self.times[1:])]
        return statistics.median(gaps[WARM_STEPS:]) * 1e3


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def made_up_tokens(model, batch, length):
    return torch.randint(4, min(model.config.vocab_size, 1000), (batch, length), device=model.device)


@torch.inference_mode()
def prefill_tokens_per_sec(model, tokens):
    """The median of three prompts after one to warm up; only the last position's logits are wanted."""
    ids, secs = made_up_tokens(model, 1, tokens), []
    for _ in range(4):
        start = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1)
        synchronise(model.device)
        secs.append(time.perf_counter() - start)
    return tokens / statistics.median(secs[1:])


@torch.inference_mode()
def forward_step_ms(model, batch, steps):
    """Median milliseconds of a forward pass over one token of each sequence and the greedy choice of the next ones."""
    token, cache, secs = made_up_tokens(model, batch, CONTEXT_TOKENS), None, []
    for _ in range(steps + WARM_STEPS + 1):
        start = time.perf_counter()
        out = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        synchronise(model.device)
        secs.append(time.perf_counter() - start)
    return statistics.median(secs[1 + WARM_STEPS:]) * 1e3


@torch.inference_mode()
def generate_step_ms(model, batch, steps, states):
    """Median milliseconds of a step of `generate`; with `states` it returns those of all layers, as the scripts do."""
    ids, clock = made_up_tokens(model, batch, CONTEXT_TOKENS), Clock(model.device)
    # The checkpoint's own settings (sampling, tokens that end the text) would be merged in.
    model.generation_config = GenerationConfig()
    options = GenerationConfig(max_new_tokens=steps + WARM_STEPS + 1, do_sample=False, pad_token_id=0,
                               output_hidden_states=states, return_dict_in_generate=states)
    model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options,
                   stopping_criteria=StoppingCriteriaList([clock]))
    assert len(clock.times) == steps + WARM_STEPS + 1, "generate stopped early"
    return clock.step_ms()


def decode(model, batch, steps):
    return {"batch": batch, "forward_step_ms": forward_step_ms(model, batch, steps),
            "generate_step_ms": generate_step_ms(model, batch, steps, False),
            "all_states_step_ms": generate_step_ms(model, batch, steps, True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--prompt_tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=getattr(torch, args.dtype)).eval()
    result = {"prefill_tokens_per_sec": prefill_tokens_per_sec(model, args.prompt_tokens),
              "decode": [decode(model, int(batch), args.steps) for batch in args.batch.split(",")]}
    result["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
