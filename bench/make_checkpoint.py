"""Made-up checkpoints, so that every program can run the same weights.

    python3 make_checkpoint.py FOLDER [thinker] [0.5b] [1.5b-8-layers]       (pip: torch transformers gguf)

Each shape becomes FOLDER/<shape>/ with a Hugging Face checkpoint (config.json, model.safetensors in bf16, a byte-level
tokenizer of the shape's vocabulary) and two GGUF files of the same weights, f16.gguf and q8_0.gguf. `thinker` copies the
bundled toy; the others have random weights that depend on the tensor's name alone. Existing folders are left as they are.
Disk: 2.4 GB for 0.5b, 3.1 GB for 1.5b-8-layers. They say how fast programs are, and nothing else.
"""
import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

TOY = Path(__file__).resolve().parent.parent / "thinker" / "model"

SHAPES = {  # d, inner width, layers, heads, key/value heads, vocabulary: as `tpv bench` names them
    "0.5b": (896, 4864, 24, 14, 2, 151936),
    "1.5b-8-layers": (1536, 8960, 8, 12, 2, 151936),
}


def config(name):
    d, inner, layers, heads, kv_heads, vocab = SHAPES[name]
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": d, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
        "tie_word_embeddings": True, "use_sliding_window": False, "torch_dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": 1,
    }


def tensor_shapes(name):
    d, inner, layers, heads, kv_heads, vocab = SHAPES[name]
    kv = d // heads * kv_heads
    yield "model.embed_tokens.weight", (vocab, d)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (d,)
        yield layer + "post_attention_layernorm.weight", (d,)
        for part, outputs in [("q", d), ("k", kv), ("v", kv)]:
            yield f"{layer}self_attn.{part}_proj.weight", (outputs, d)
            yield f"{layer}self_attn.{part}_proj.bias", (outputs,)
        yield layer + "self_attn.o_proj.weight", (d, d)
        yield layer + "mlp.gate_proj.weight", (inner, d)
        yield layer + "mlp.up_proj.weight", (inner, d)
        yield layer + "mlp.down_proj.weight", (d, inner)
    yield "model.norm.weight", (d,)


def made_up(name, shape):
    """Norms near 1, small biases, embeddings as small as in trained models, and matrices that keep activations near 1."""
    draws = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode()))).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        draws = 1 + 0.1 * draws
    elif name.endswith("bias"):
        draws *= 0.1
    elif "embed" in name:
        draws *= 0.02
    else:
        draws /= np.sqrt(np.float32(shape[1]))
    return torch.from_numpy(draws).to(torch.bfloat16)


def byte_alphabet():
    """The 256 characters that stand for bytes in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def tokenizer(vocab_size):
    special = ["<|bos|>", "<|eos|>", "<think>", "</think>"]
    tokens = special + byte_alphabet() + ["ĠĠ"]
    tokens += [f"filler{i}" for i in range(vocab_size - len(tokens))]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, text in enumerate(special)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [["Ġ", "Ġ"]]},
    }


def write_checkpoint(name, folder):
    if name == "thinker":
        shutil.copytree(TOY, folder)
        return
    folder.mkdir(parents=True)
    texts = {
        "config.json": config(name),
        "tokenizer.json": tokenizer(SHAPES[name][-1]),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>"},
    }
    for file, content in texts.items():
        (folder / file).write_text(json.dumps(content))
    tensors = {tensor: made_up(tensor, shape) for tensor, shape in tensor_shapes(name)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def interleaved(weights, heads):
    """Rows of queries or keys in the order that GGUF's `llama` architecture turns them in: neighbours are a pair."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(folder, file_type, path):
    """The checkpoint as GGUF, its matrices in the wanted type, vectors in f32."""
    config = json.loads((folder / "config.json").read_text())
    is_llama = config["model_type"] == "llama"
    architecture = gguf.MODEL_ARCH.LLAMA if is_llama else gguf.MODEL_ARCH.QWEN2
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    quantised = file_type == gguf.GGMLQuantizationType.Q8_0
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()))
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        weights = tensor.float().numpy()
        if is_llama and ".q_proj." in name:
            weights = interleaved(weights, heads)
        if is_llama and ".k_proj." in name:
            weights = interleaved(weights, kv_heads)
        kind = file_type if weights.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(weights, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer, tokenizer):
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = {token["content"]: token["id"] for token in tokenizer["added_tokens"]} | tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", nargs="*", help="thinker, " + ", ".join(SHAPES) + "; all by default")
    args = parser.parse_args()
    for name in args.shapes or ["thinker", *SHAPES]:
        if name != "thinker" and name not in SHAPES:
            sys.exit(f"no shape is named {name}; there are thinker, {', '.join(SHAPES)}")
        folder = args.folder / name
        if not folder.exists():
            unfinished = folder.with_name(name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_checkpoint(name, unfinished)
            write_gguf(unfinished, gguf.GGMLQuantizationType.F16, unfinished / "f16.gguf")
            write_gguf(unfinished, gguf.GGMLQuantizationType.Q8_0, unfinished / "q8_0.gguf")
            unfinished.rename(folder)
        print(folder)


if __name__ == "__main__":
    main()
