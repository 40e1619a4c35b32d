"""Models of random weights with a real one's dimensions, and SAEs of random directions that fire as often as real ones.

`python -m benchmarks.throughput.sizes NAME FOLDER` makes one by itself, with an SAE that explains its layer, so that a
scan takes the pair.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from geofilter.config import Loading
from geofilter.encode.model import ResidualModel
from geofilter.encode.tokens import batches, encode_row
from geofilter.rows.shipped import background_rows

TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) "
    "+ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
)
L0 = 80
"""features that fire for a token of ordinary chat, of an SAE that has as many to spare"""
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model's dimensions, those of its SAE, and the layer that it reads."""

    kind: str
    """model_type of transformers"""
    layers: int
    hook: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    d_sae: int


SIZES = {
    "tiny": Size("gemma2", 4, 1, 64, 128, 4, 2, 16, 2000, 512),
    "gemma-2-small": Size("gemma2", 12, 5, 512, 2048, 8, 4, 64, 32_000, 8192),
    "gemma-2-2b": Size("gemma2", 26, 12, 2304, 9216, 8, 4, 256, 256_000, 16_384),
    "gemma-3-1b": Size("gemma3_text", 26, 12, 1152, 6912, 4, 1, 256, 262_144, 16_384),
    "llama-3.1-8b": Size("llama", 32, 15, 4096, 14_336, 32, 8, 128, 128_256, 32_768),
}


def config_of(size: Size) -> Any:
    """The configuration of transformers."""
    from transformers import AutoConfig

    more: dict[str, Any] = {"query_pre_attn_scalar": size.head_dim}
    if size.kind == "gemma3_text":
        more["sliding_window"] = 512
    if size.kind == "llama":
        more = {"rope_parameters": LLAMA3_ROPE, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5}
    return AutoConfig.for_model(
        size.kind, vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim, dtype=torch.bfloat16, pad_token_id=0, eos_token_id=1, bos_token_id=2, **more,
    )  # fmt: skip


def make_model(size: Size, folder: Path, device: torch.device) -> None:
    """All layers and the output head, in bfloat16, so that float32 and bfloat16 read the same numbers; a tokenizer."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(size), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer(size.vocab).save_pretrained(folder)


def make_tokenizer(vocab: int) -> Any:
    """A byte-level BPE of at most 16,000 tokens, trained on the chat that ships, with a template like Gemma's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=min(16_000, vocab), special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([f"{row.prompt}\n{row.response}" for row in background_rows()], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    tokenizer.chat_template = TURNS
    return tokenizer


def hook_vectors(size: Size, model_dir: Path, device: torch.device) -> torch.Tensor:
    """(n, hidden) float32 vectors that the SAE reads, of the response tokens of sixty rows of ordinary chat."""
    model = ResidualModel(model_dir, [size.hook], Loading(str(device), "auto"))
    rows = [encode_row(row, model.tokenizer, 1024).cut() for row in background_rows()[:60]]
    return torch.cat([
        model.residuals(b.input_ids, b.attention_mask)[size.hook][b.response_mask.to(model.device)].float()
        for b in batches(rows, 2048, model.pad_id)
    ])  # fmt: skip


def make_sae(size: Size, model_dir: Path, folder: Path, device: torch.device) -> None:
    """A JumpReLU SAE of random directions, each with the threshold that lets it fire for its share of `L0`."""
    x = hook_vectors(size, model_dir, device)
    generator = torch.Generator(x.device).manual_seed(0)
    directions = torch.randn(size.hidden, size.d_sae, generator=generator, device=x.device)
    directions = torch.nn.functional.normalize(directions, dim=0)
    often = max(1, round(len(x) * min(L0, size.d_sae / 16) / size.d_sae))
    # Between two tokens, not at one: there the order of additions would decide whether it fires.
    parts = [(x @ part).topk(often + 1, dim=0).values[-2:].mean(0) for part in directions.split(2048, dim=1)]
    weights = {"W_enc": directions, "W_dec": directions.T, "threshold": torch.cat(parts)}
    save_sae(folder, size, model_dir.name, weights, {"architecture": "jumprelu", "apply_b_dec_to_input": False})


def make_fitting_sae(size: Size, model_dir: Path, folder: Path, device: torch.device) -> None:
    """A TopK SAE that explains its layer: its directions are vectors of that layer."""
    x = hook_vectors(size, model_dir, device)
    mean = x.mean(0)
    picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: size.d_sae]
    decoder = torch.nn.functional.normalize(x[picked.to(x.device)] - mean, dim=1)
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_dec": mean}
    about = {"architecture": "topk", "k": 1, "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": True}
    save_sae(folder, size, model_dir.name, weights, about)


def save_sae(folder: Path, size: Size, model: str, weights: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """A folder as sae-lens writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"b_enc": torch.zeros(size.d_sae), "b_dec": torch.zeros(size.hidden), **weights}
    save_file({k: v.contiguous().cpu() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    # Without a version in it, sae-lens takes the metadata for that of an older layout.
    metadata = {"model_name": model, "hook_name": f"blocks.{size.hook}.hook_resid_post",
                "sae_lens_version": version("sae-lens")}  # fmt: skip
    config = {
        "d_in": size.hidden, "d_sae": size.d_sae, "dtype": "float32", "device": "cpu",
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": metadata, **about,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))


if __name__ == "__main__":
    name, where = sys.argv[1], Path(sys.argv[2])
    make_model(SIZES[name], where / name, torch.device("cpu"))
    make_fitting_sae(SIZES[name], where / name, where / f"{name}-sae", torch.device("cpu"))
