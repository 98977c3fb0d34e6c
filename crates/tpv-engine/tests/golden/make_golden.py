"""Writes tiny random checkpoints and what transformers computes with them, for tests/parity.rs.

    pip install torch transformers safetensors
    python3 make_golden.py            # rewrites the folders beside this file

Weights are random numbers that bf16 holds exactly; everything is computed in f32, token by token, without a cache.
`steered` adds alpha * theta to the state that `lm_head` reads, at every step.
"""
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

HERE = Path(__file__).parent
VOCAB, WIDTH, INNER, STEPS, ALPHA = 96, 32, 64, 64, 4.0
PROMPT_LENGTHS = [3, 21, 70]
SMALLEST_MARGIN = 2e-3  # between the best two logits, so that rounding cannot change a greedy token
SHAPE = dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)

CASES = {
    "llama": LlamaConfig(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=1e4)),
    "llama_llama3_biased_tied": LlamaConfig(
        **SHAPE, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(LLAMA3, rope_theta=5e5)),
    "llama_yarn_old_keys": LlamaConfig(**SHAPE, rope_parameters=dict(YARN, rope_theta=1e4)),
    "qwen2_window": Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=16, max_window_layers=1,
        rope_parameters=dict(rope_type="default", rope_theta=1e4)),
    "qwen2_window_off_old_keys": Qwen2Config(
        **SHAPE, use_sliding_window=False, sliding_window=16, max_window_layers=1, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen2_yarn_untruncated": Qwen2Config(
        **SHAPE, rope_parameters=dict(YARN, rope_theta=1e4, truncate=False, beta_fast=8.0, attention_factor=1.25)),
    "qwen3_tied_sharded": Qwen3Config(
        **SHAPE, head_dim=16, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
}


def write_checkpoint(folder, config, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        scale, mean = (0.25, 1.0) if "norm" in name else (0.25, 0.0)
        values = torch.randn_like(weight) * scale + mean
        weight.data = values.bfloat16().float()
    shutil.rmtree(folder, ignore_errors=True)
    model.bfloat16().save_pretrained(folder, max_shard_size="40KB" if "sharded" in folder.name else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if "old_keys" in folder.name:
        rewrite_in_old_keys(folder / "config.json")


def rewrite_in_old_keys(path):
    """The spelling of transformers 4."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else dict(rope, type=rope["rope_type"])
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def last_state(model, tokens):
    return model.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0, -1]


def trace(model, prompt, shift):
    """Greedy tokens, the first and last state and logits (before the shift), and the smallest margin."""
    tokens, states, margin = list(prompt), [], float("inf")
    for _ in range(STEPS):
        states.append(last_state(model, tokens))
        best = model.lm_head(states[-1] + shift).topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
    rows = [states[0], states[-1]]
    return dict(tokens=tokens[len(prompt):], states=[row.tolist() for row in rows],
                logits=[model.lm_head(row).tolist() for row in rows]), margin


@torch.no_grad()
def golden(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    theta = torch.randn(WIDTH)
    theta /= theta.norm()
    prompts = [torch.randint(2, VOCAB, (length,)).tolist() for length in PROMPT_LENGTHS]
    plain = [trace(model, prompt, 0 * theta) for prompt in prompts]
    steered = [trace(model, prompt, ALPHA * theta) for prompt in prompts]
    differ = all(a["tokens"] != b["tokens"] for (a, _), (b, _) in zip(plain, steered))
    margin = min(m for _, m in plain + steered)
    content = dict(alpha=ALPHA, theta=theta.tolist(), projected=model.lm_head(theta).tolist(), prompts=prompts,
                   plain=[t for t, _ in plain], steered=[t for t, _ in steered])
    return content, margin if differ else 0.0


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def main():
    for name, config in CASES.items():
        for seed in range(1000):
            write_checkpoint(HERE / name, config, seed)
            content, margin = golden(HERE / name)
            if margin > SMALLEST_MARGIN:
                break
        (HERE / name / "golden.json").write_text(json.dumps(rounded(content), separators=(",", ":")) + "\n")
        print(name, "seed", seed, "margin", margin)


if __name__ == "__main__":
    main()
