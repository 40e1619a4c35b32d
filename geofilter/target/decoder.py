"""The text decoder of a model, which of a multimodal one is a part: its configuration, and which tensors are its own.

Gemma 3 from 4b up, Qwen3.5 and Mistral 3 are published with a vision tower beside the text decoder. Rows are text, so
the decoder alone is fetched, built and read, as if it had been published by itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_BLOCK = r"(?:layers|h)\.(\d+)\."
_ANY_BLOCK = re.compile(rf"(?:^|\.){_BLOCK}")
_EMBEDDING = re.compile(r"((?:.*\.)?)(?:embed_tokens|wte|embed_in|word_embeddings)\.weight")
"""the table of token embeddings, by the names that transformers' decoders give it"""
_HEAD = re.compile(r"(?:.*\.)?lm_head\.")


_BY_ALL = ("num_kv_shared_layers", "scale_depth")
"""options that only decoders have whose layers reckon with the number of all"""


def layers_to_load(config: Any, layers: int) -> int:
    """How many decoder blocks have to be loaded so that the first `layers` compute what they do in the whole model.

    Gemma 3n and Gemma 4 can share keys and values among their last layers and give each layer an input of its own:
    which layer does what is reckoned from the number of all, so all are loaded. MiniCPM 3 scales what each
    layer adds by that number.

    Args:
        config: of the decoder, transformers' own.
    """
    return int(config.num_hidden_layers) if any(hasattr(config, name) for name in _BY_ALL) else layers


def steady_length(config: Any) -> float:
    """Tokens up to which what a decoder computes of a window does not depend on how many come after; infinity where it
    never does.

    Beyond it, dynamic and LongRoPE positions are turned by other angles, all of them, those before it too.

    Args:
        config: of the decoder, transformers' own.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # one for all layers, or by their type
    most = [
        each.get("original_max_position_embeddings") or config.max_position_embeddings
        for each in kinds if each.get("rope_type") in ("dynamic", "longrope")
    ]  # fmt: skip
    return float(min(most, default=math.inf))


def is_nested(config: Mapping[str, Any]) -> bool:
    """True when a config.json is of a model of which the text decoder is a part."""
    return isinstance(config.get("text_config"), dict)


def text_config(folder: Path) -> dict[str, Any]:
    """The configuration of a nested model's text decoder, complete.

    Args:
        folder: with the model's config.json.

    Raises:
        OSError, ValueError and others of transformers: not a configuration it knows.
    """
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = whole.get_text_config(decoder=True)
    found: dict[str, Any] = json.loads(text.to_json_string(use_diff=False))
    if hasattr(whole, "tie_word_embeddings"):  # it goes before the part's own
        found["tie_word_embeddings"] = whole.tie_word_embeddings
    packed = getattr(whole, "quantization_config", None)
    return found if packed is None else {**found, "quantization_config": _renamed(packed)}


def _renamed(packed: Any) -> Any:
    """A quantisation's lists of modules by the names that these have in the decoder alone: `model.layers.0`."""
    if isinstance(packed, dict):
        return {_decoder_name(str(key)): _renamed(value) for key, value in packed.items()}
    if isinstance(packed, list):
        return [_renamed(value) for value in packed]
    return _decoder_name(packed) if isinstance(packed, str) else packed


def _decoder_name(name: str) -> str:
    alone = re.sub(r"^(?:model\.)?language_model\.(?:model\.)?layers\.", "model.layers.", name)
    return re.sub(r"^(?:model\.)?language_model\.lm_head", "lm_head", alone)


def prefix_of(names: Iterable[str]) -> str | None:
    """What stands before the names of a decoder's tensors: `model.`, `language_model.model.`, or nothing.

    The decoder is where the token embedding lies beside blocks: a vision tower has blocks of the same names, as a head
    that predicts further tokens has, and neither has a table of tokens.

    Returns:
        None when there is no such table.
    """
    names = list(names)
    found = [match[1] for match in map(_EMBEDDING.fullmatch, names) if match]
    blocks = {prefix: sum(bool(re.match(re.escape(prefix) + _BLOCK, name)) for name in names) for prefix in found}
    return max(found, key=lambda prefix: (blocks[prefix], -len(prefix)), default=None)


def layer_of(name: str, prefix: str | None = None) -> int | None:
    """The decoder block that a tensor belongs to, by its name; None for the embedding, norms, heads and other towers.

    Args:
        prefix: see `prefix_of`; None when it is not known, and then any numbered block counts.
    """
    match = _ANY_BLOCK.search(name) if prefix is None else re.match(re.escape(prefix) + _BLOCK, name)
    return int(match[1]) if match else None


def is_wanted(name: str, layers: int | None, prefix: str | None) -> bool:
    """True for the tensors of the embedding and of the first `layers` decoder blocks; of all and the head when None.

    Args:
        prefix: see `prefix_of`.
    """
    if layers is None:
        return prefix is None or name.startswith(prefix) or bool(_HEAD.match(name))
    if prefix is not None and not name.startswith(prefix):
        return False
    layer = layer_of(name, prefix)
    return layer < layers if layer is not None else not _HEAD.match(name)


def names_alone(prefix: str) -> dict[str, str]:
    """Patterns of a nested decoder's tensors, and what each becomes when it is loaded by itself, for transformers."""
    head = re.escape(prefix.removesuffix("model."))
    return {f"^{re.escape(prefix)}": "model.", f"^{head}lm_head\\.": "lm_head."}
