"""What a scan needs of memory, reckoned before anything is loaded, and how much it reads at once within a limit."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from geofilter.config import Loading
from geofilter.encode import attention, passes, sae
from geofilter.encode.model import DTYPES, choose_device, parameters, resolved_dtype
from geofilter.errors import TargetError
from geofilter.target.hub import WEIGHTS, shards_of
from geofilter.target.pairing import model_config
from geofilter.target.sae_folder import decoder_shape, open_weights
from geofilter.target.size import (
    FLOAT32,
    GPU_TOKEN_BUDGET,
    MAX_TOKENS,
    TOKEN_BUDGET,
    AtOnce,
    Dimensions,
    Memory,
    layers_needed,
    usual,
    working,
    working_on_cpu,
)
from geofilter.target.target import Target

TOKENIZER = 16
"""bytes that a tokenizer takes for each of its file's"""
LIBRARIES = 24 << 20
"""what libraries still take when they are first used"""
HELD = 100 << 20
"""what the check of the pair leaves behind when the scan's own model is loaded"""
UNKNOWN = 450 << 20
"""of interpreter and libraries, where the system does not say"""
_ITEMS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def token_budget(device: torch.device) -> int:
    """Tokens in one forward pass, about."""
    return TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET


def memory_needed(
    target_dir: Path, layer: int, d_in: int, d_sae: int, loading: Loading, max_tokens: int,
    at_once: AtOnce | None = None, sae_dir: Path | None = None,
) -> Memory:  # fmt: skip
    """What a scan will hold: on a GPU in its memory; on the CPU the whole process.

    Parameters are counted on torch's meta device. See `size` for the rest.

    Args:
        at_once: how much it works on; the usual if None.
        sae_dir: to look up how the SAE's weights are stored; as float32 if None.
    """
    config = model_config(target_dir)
    layers = layers_needed(layer, int(config.num_hidden_layers))
    n, item = parameters(target_dir, layers), DTYPES[resolved_dtype(loading)].itemsize
    device = choose_device(loading.device)
    at_once = at_once or usual(token_budget(device), d_sae)
    encoder = d_in * d_sae * DTYPES[loading.sae_dtype].itemsize
    if device.type != "cpu":
        heads = int(config.num_attention_heads)
        return Memory(layers, n * item, encoder, working(d_in, d_sae, heads, at_once, max_tokens))
    stored = FLOAT32 if sae_dir is None else _stored(sae_dir, "W_dec")
    columns = 0 if loading.sae_dtype == "float32" else sae.BLOCK
    busy = working_on_cpu(_dimensions(config, d_in, d_sae, item, stored, columns), at_once, max_tokens)
    # Weights of the wanted type are mapped from their file; others are converted beside it, and then it is let go.
    kept = _kept(target_dir)
    beside = n * kept if kept != item else 0
    tokenizer = target_dir / "tokenizer.json"
    libraries = _resident() + LIBRARIES + (TOKENIZER * tokenizer.stat().st_size if tokenizer.is_file() else 0)
    known = layers * _keys_and_values(config) * item * min(passes.HELD, max_tokens)
    return Memory(layers, n * item, encoder, max(busy + known, beside + HELD - encoder), libraries)


def _keys_and_values(config: Any) -> int:
    """Numbers that a layer keeps of a token that the next pass begins with."""
    heads = int(config.num_attention_heads)
    groups = getattr(config, "num_key_value_heads", None) or heads
    return 2 * int(groups) * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def _dimensions(config: Any, d_in: int, d_sae: int, item: int, stored: int, columns: int) -> Dimensions:
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    inner = max(inner) if isinstance(inner, list) else int(inner)
    inner *= getattr(config, "num_experts_per_tok", None) or 1
    return Dimensions(
        d_in,
        d_sae,
        hidden,
        inner,
        heads,
        getattr(config, "head_dim", None) or hidden // heads,
        item,
        stored,
        attention.BLOCK,
        columns,
    )


def _stored(sae_dir: Path, name: str) -> int:
    """Bytes of a number of an SAE's file."""
    with open_weights(sae_dir) as file:
        return _ITEMS.get(file.get_slice(name).get_dtype(), FLOAT32)


@cache
def _kept(folder: Path) -> int:
    """Bytes of a number in a model's weight files, most of which are of one type; 1 of packed ones, as of others."""
    from safetensors import SafetensorError, safe_open

    try:
        names = [WEIGHTS] if (folder / WEIGHTS).is_file() else shards_of(folder)
        with safe_open(folder / names[0], framework="numpy") as file:
            tensors = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 - no mapping
        largest = max(tensors, key=lambda tensor: _numbers(tensor.get_shape()))
        return _ITEMS.get(largest.get_dtype(), 1)
    except (SafetensorError, OSError, IndexError, ValueError, TargetError):
        return 0  # it cannot be read: that is said when it is loaded


def _numbers(shape: list[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


@cache
def _resident() -> int:
    """Bytes of memory that the process held when this was first asked for: interpreter and libraries."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    if sys.platform == "win32":
        return UNKNOWN
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def said(need: Memory, loading: Loading) -> str:
    """The parts of an estimate."""
    libraries = f", interpreter and libraries {need.libraries / 1e9:.2f}" if need.libraries else ""
    return (
        f"about {need.total / 1e9:.2f} GB: model {need.model / 1e9:.2f} ({need.layers} layers in "
        f"{resolved_dtype(loading)}), encoder {need.encoder / 1e9:.2f} ({loading.sae_dtype}), working memory "
        f"{need.working / 1e9:.2f}{libraries}"
    )


def fitting(target: Target, loading: Loading, max_tokens: int = MAX_TOKENS) -> AtOnce:
    """How much a scan works on at once: the usual, or as much as --max-memory has room for.

    Raises:
        TargetError: not even the least has room.
    """
    d_in, d_sae = decoder_shape(target.sae_dir)
    at_once = usual(token_budget(choose_device(loading.device)), d_sae)
    if (most := loading.most_bytes) is None:
        return at_once
    while True:
        need = memory_needed(
            target.model_dir, target.layer, d_in, d_sae, loading, max_tokens, at_once, target.sae_dir
        )  # fmt: skip
        if need.total <= most:
            return at_once
        if (less := at_once.halved()) is None:
            raise TargetError(
                f"--max-memory {loading.max_memory}: too little even for the smallest passes, which need "
                f"{said(need, loading)}; give more, or use --dtype bfloat16, --sae-dtype bfloat16, a smaller "
                "--max-tokens or a lower --layer"
            )
        at_once = less
