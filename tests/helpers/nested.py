"""Tiny random multimodal models of the real classes, their text decoders nested as in the files of the hub."""

from pathlib import Path
from typing import Any

import torch

from helpers.families import VOCAB, family_tokenizer

NESTED = {"gemma3": "gemma3_text", "qwen3_5": "qwen3_5_text", "mistral3": "mistral"}
"""by model type, the type of its text decoder"""


def nested_model(kind: str, layers: int, hidden: int = 32, towers: int | None = None, vocab: int = VOCAB) -> Any:
    """A random model of the real multimodal class; weights large enough that layers differ.

    Args:
        kind: one of `NESTED`.
        layers: of the text decoder.
        towers: blocks of the vision tower; as many as `layers` when None, so that numbers do not tell them apart.
    """
    import transformers as hf
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config

    torch.manual_seed(0)
    depth = layers if towers is None else towers
    text: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": depth, "num_attention_heads": 4,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    if kind == "gemma3":
        small = {"sliding_window": 8, "query_pre_attn_scalar": 8}
        config: Any = hf.Gemma3Config(text_config={**text, **small}, vision_config=vision, mm_tokens_per_image=4)
        return hf.Gemma3ForConditionalGeneration(config).eval()
    if kind == "mistral3":
        return hf.Mistral3ForConditionalGeneration(
            hf.Mistral3Config(
                text_config=hf.MistralConfig(**text),
                vision_config={**vision, "model_type": "pixtral", "head_dim": 8},
            )
        ).eval()
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
              "linear_value_head_dim": 8, "full_attention_interval": 4}  # fmt: skip
    sees = {"depth": depth, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": hidden,
            "num_position_embeddings": 16}  # fmt: skip
    return hf.Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config={**text, **linear}, vision_config=sees)).eval()


def nested_folder(path: Path, kind: str, layers: int, shard: str = "50GB", **options: Any) -> Path:
    """A model folder of `nested_model`, with a tokenizer."""
    nested_model(kind, layers, **options).save_pretrained(path, max_shard_size=shard)
    family_tokenizer({"gemma3": "gemma2"}.get(kind, "llama")).save_pretrained(path)
    return path
