"""Models written as GGUF files, laid out as llama.cpp's converter lays them out."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from helpers.tiny import D_IN, N_LAYERS, make_tokenizer

VOCAB = 400
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def random_model(kind: str, **changes: Any):
    """A random whole model of a real architecture, every weight of it drawn.

    Norms are multiples of 1/1024, so that one can be added to them and taken away again.
    """
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": D_IN, "intermediate_size": 64, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    }  # fmt: skip
    scaled = {"query_pre_attn_scalar": 8, "sliding_window": 6}
    plain = {"rope_type": "default", "rope_theta": 1e6}
    long = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    both = {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}  # fmt: skip
    config, build, own = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
        "llama3": (hf.LlamaConfig, hf.LlamaForCausalLM, {"rope_parameters": long, "tie_word_embeddings": True}),
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {"rope_parameters": plain}),
        # Heads whose dimensions do not come to the model's.
        "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 16}),
        "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, {}),
        "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM, scaled),
        # Seven layers: the sixth is a global one.
        "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM,
                   {**scaled, "rope_parameters": both, "num_hidden_layers": 7, "head_dim": 16,
                    "query_pre_attn_scalar": 16}),
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    model = build(config(**common | own | changes)).eval()
    if kind == "gemma2":  # some versions of transformers choose an attention that leaves its soft cap out
        model.set_attn_implementation("eager")
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            around = 0 if kind.startswith("gemma") else 1
            value.data = around + (torch.randn(value.shape) * 100).round() / 1024
        else:
            value.data.normal_(0, 0.2)
    return model


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any = None,
    stored: str = "F32",
    pre: str = "gpt-2",
    keys: dict[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> Path:
    """Write a model as a GGUF file.

    Args:
        tokenizer: a byte-level one; the tiny one if None.
        stored: format of matrices; vectors are F32.
        pre: how the tokenizer splits words, in llama.cpp's names.
        keys: metadata to say instead, or not at all (None).
        change: changes the tensors, by their names in the file.
    """
    config = model.config
    kind = config.model_type.removesuffix("_text")
    said = facts(config, kind) | words(tokenizer or make_tokenizer(), pre) | (keys or {})
    writer = gguf.GGUFWriter(path, said.pop("general.architecture", kind))
    for key, value in said.items():
        _add(writer, key, value)
    tensors = laid_out(model, kind)
    if change is not None:
        change(tensors)
    for name, value in tensors.items():
        quantised = gguf.GGMLQuantizationType[stored if value.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(value, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def facts(config: Any, kind: str) -> dict[str, Any]:
    """Metadata of a configuration."""
    heads = config.num_attention_heads
    rope = config.rope_parameters
    outer = rope.get("full_attention", rope)
    found = {
        "general.type": "model", "general.name": f"Tiny {kind}", "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads, "rope.freq_base": float(outer["rope_theta"]),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps), "vocab_size": config.vocab_size,
    }  # fmt: skip
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if kind != "qwen2":
        found |= {"attention.key_length": size, "attention.value_length": size}
    if kind == "llama":
        found["rope.dimension_count"] = size
    if outer["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(outer["factor"])}
    if kind in ("gemma2", "gemma3"):
        found["attention.sliding_window"] = config.sliding_window
    if kind == "gemma2":
        found |= {name: float(getattr(config, name)) for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    return {key if key.startswith("general.") else f"{kind}.{key}": value for key, value in found.items()}


def words(tokenizer: Any, pre: str) -> dict[str, Any]:
    """Metadata of a byte-level tokenizer."""
    import json

    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    tokens += [f"[PAD{n}]" for n in range(len(tokens), VOCAB)]
    found = {
        "model": "gpt2", "pre": pre, "tokens": tokens,
        "token_type": [3 if token in [*tokenizer.all_special_tokens, *SPECIAL] else 1 for token in tokens],
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in core["merges"]],
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "padding_token_id": tokenizer.pad_token_id, "add_bos_token": False,
    }  # fmt: skip
    out = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    return out | ({"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})


def sentencepiece(texts: list[str], bos: bool = True) -> dict[str, Any]:
    """Metadata of a tokenizer as Llama 2 has it: bytes, pieces in the order in which they are merged, characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB - 259, show_progress=False))
    learnt = sorted(core.get_vocab(), key=core.get_vocab().get)
    pieces = [piece for piece in learnt if len(piece) > 1] + [piece for piece in learnt if len(piece) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces]
    tokens += [f"[PAD{n}]" for n in range(len(tokens), VOCAB)]
    found = {
        "model": "llama", "pre": "default", "tokens": tokens, "merges": None, "unknown_token_id": 0,
        "scores": [0.0] * 259 + [float(-n) for n in range(VOCAB - 259)], "bos_token_id": 1, "eos_token_id": 2,
        "token_type": [2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259), "padding_token_id": None, "add_bos_token": bos,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def laid_out(model: Any, kind: str) -> dict[str, np.ndarray]:
    """Tensors as the converter names and changes them."""
    config = model.config
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[kind], config.num_hidden_layers)
    out = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.float().numpy()
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            array = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2)
            array = array.reshape(value.shape)
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        out[names.get_name(name, try_suffixes=(".weight", ".bias"))] = np.ascontiguousarray(array)
    if config.rope_parameters.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama_3(config)
    return out


def llama_3(config: Any) -> np.ndarray:
    """What Llama 3's scaling comes to for each frequency, as the converter writes it."""
    rope = config.rope_parameters
    factor, low, high = (rope[name] for name in ("factor", "low_freq_factor", "high_freq_factor"))
    old = rope["original_max_position_embeddings"]
    out = []
    for n in range(0, config.head_dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (n / config.head_dim)
        if wave < old / high:
            out.append(1.0)
        elif wave > old / low:
            out.append(factor)
        else:
            smooth = (old / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
