"""What a GGUF file's metadata and tensors are in transformers' terms: one entry for each architecture that is read.

llama.cpp's converter changes some weights and leaves some facts out; each is undone or put back here. What a file says
that would change what is computed, and that is not known here, is an error: nothing would tell that it was left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geofilter.arrays import F32
from geofilter.errors import TargetError
from geofilter.target.gguf_header import Header

EMBEDDING, HEAD, NORM, ROPE = "token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"
_OUTER = {EMBEDDING: "model.embed_tokens.weight", HEAD: "lm_head.weight", NORM: "model.norm.weight"}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_DENSE = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_NORMS = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
_KEYS = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.causal", "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
}  # fmt: skip
_MATTERS = re.compile(r"attention\.|rope\.|.*(scale|scaling|softcap|expert|norm|bias|residual|ssm|act)")
"""keys of an architecture that may change what is computed"""
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""what Llama 3.1, 3.2 and 3.3 have in common of their scaled rotary embedding"""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the files of an architecture are laid out."""

    model_type: str
    """transformers' name"""
    models: str
    """for people"""
    modules: Mapping[str, str]
    """module of a decoder layer by what the file calls it"""
    more: Callable[[_Facts], dict[str, Any]]
    """configuration beyond what all have"""
    keys: frozenset[str] = frozenset()
    """that it reads beyond `_KEYS`"""
    plus_one: bool = False
    """norms' weights are stored with one added"""
    permuted: bool = False
    """rows of the query and key projections are stored in pairs, as llama.cpp rotates them"""

    def place(self, name: str) -> str | None:
        """Name of a tensor in transformers' whole model; None for one that has no place there."""
        if name in _OUTER:
            return _OUTER[name]
        found = _BLOCK.fullmatch(name)
        module = self.modules.get(found[2]) if found else None
        return f"model.layers.{int(found[1])}.{module}.{found[3]}" if found and module else None

    def undo(self, name: str, weights: Any, config: Mapping[str, Any]) -> Any:
        """A tensor as transformers has it.

        Args:
            name: in the file.
            weights: a torch tensor.
        """
        if self.plus_one and name.endswith("norm.weight"):
            return weights.float() - 1
        if self.permuted and (found := re.search(r"\.attn_([qk])\.", name)):
            heads = config["num_attention_heads" if found[1] == "q" else "num_key_value_heads"]
            half = weights.shape[0] // heads // 2
            return weights.reshape(heads, half, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
        return weights


class _Facts:
    """A header's metadata, of its architecture."""

    def __init__(self, header: Header, name: str, rope: F32 | None) -> None:
        self.header, self.name, self.rope = header, name, rope

    def get(self, key: str, default: Any = None) -> Any:
        """A number; where each layer has its own and all are the same, that one.

        Raises:
            TargetError: layers differ, or it is no number.
        """
        found = self.header.metadata.get(f"{self.name}.{key}", default)
        if isinstance(found, np.ndarray):
            if len(set(found.tolist())) != 1:
                raise self.error(f"{self.name}.{key} differs between layers, which is not read")
            found = found.tolist()[0]
        if (not isinstance(found, int | float) or not math.isfinite(found)) and found is not default:
            raise self.error(f"{self.name}.{key} is {str(found)[:80]!r}, no number")
        # Stored in single precision: the shortest decimal of that value is what the model's own configuration says.
        return float(str(np.float32(found))) if isinstance(found, float) else found

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number above 0.

        Raises:
            TargetError: it is none.
        """
        found = self.get(key, default)
        if type(found) is not int or not 0 < found < 1 << 31:
            raise self.error(f"{self.name}.{key} is {found}, where a number of at least 1 must stand")
        return found

    def error(self, text: str) -> TargetError:
        """Of the file."""
        return TargetError(f"{self.header.path}: {text}; give the model's own folder or hub id instead")

    @property
    def head_dim(self) -> int:
        return self.whole("attention.key_length", self.whole("embedding_length") // self.whole("attention.head_count"))

    def rotary(self, theta: float = 10_000.0) -> dict[str, Any]:
        """The rotary embedding's parameters.

        Raises:
            TargetError: of a kind that is not read.
        """
        found = float(self.get("rope.freq_base", theta))
        if not found > 1:
            raise self.error(f"{self.name}.rope.freq_base is {found}, where more than 1 must stand")
        base: dict[str, Any] = {"rope_type": "default", "rope_theta": found}
        if self.get("rope.dimension_count", self.head_dim) != self.head_dim:
            raise self.error("it rotates a part of each head only, which is not read for this architecture")
        kind = self.header.text(f"{self.name}.rope.scaling.type") or "none"
        if kind != "none" and self.rope is not None:
            raise self.error("it scales its rotary embedding in two ways")
        if kind in ("linear", "yarn"):
            scaled = {**base, "rope_type": kind, "factor": float(self.get("rope.scaling.factor", 1.0))}
            if kind == "linear":
                return scaled
            return scaled | {"original_max_position_embeddings": self.whole("rope.scaling.original_context_length")}
        if kind != "none":
            raise self.error(f"its rotary embedding is scaled as {kind[:80]!r}, which is not read")
        return base if self.rope is None else self._as_llama_3(base, self.rope)

    def _as_llama_3(self, base: dict[str, Any], rope: F32) -> dict[str, Any]:
        """Llama 3's scaling, of which the file holds what it comes to for each frequency."""
        factor = float(np.nan_to_num(rope).max().round())
        found = {**base, "rope_type": "llama3", "factor": max(1.0, factor), **_LLAMA_3}
        waves = 2 * math.pi * base["rope_theta"] ** (np.arange(0, self.head_dim, 2) / self.head_dim)
        turns = found["original_max_position_embeddings"] / waves
        low, high = found["low_freq_factor"], found["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        wanted = 1 / ((1 - smooth) / found["factor"] + smooth)
        if rope.shape != wanted.shape or not np.allclose(rope, wanted, rtol=1e-4):
            raise self.error(f"its {ROPE} scale the rotary embedding in another way than Llama 3 does")
        return found


def _plain(facts: _Facts) -> dict[str, Any]:
    return {"rope_parameters": facts.rotary()}


def _biased(facts: _Facts) -> dict[str, Any]:
    biased = "blk.0.attn_q.bias" in facts.header.tensors
    return {**_plain(facts), "attention_bias": biased}


def _gemma(facts: _Facts) -> dict[str, Any]:
    return {**_plain(facts), "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}


def _query_scale(facts: _Facts, layers_of_27b: int) -> int:
    """By what the scores are divided (its root): the file does not say it, and llama.cpp tells 27B by its layers."""
    if facts.whole("block_count") != layers_of_27b:
        return facts.head_dim
    return facts.whole("embedding_length") // facts.whole("attention.head_count")


def _gemma_2(facts: _Facts) -> dict[str, Any]:
    return {
        "rope_parameters": facts.rotary(),
        "sliding_window": facts.whole("attention.sliding_window", 4096),
        "attn_logit_softcapping": facts.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": facts.get("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _query_scale(facts, 46),
    }


def _gemma_3(facts: _Facts) -> dict[str, Any]:
    # Local layers keep a rotary embedding of their own, which no scaling changes.
    layers = range(1, facts.whole("block_count") + 1)
    local_layers = facts.header.metadata.get(f"{facts.name}.attention.sliding_window_pattern")
    if not isinstance(local_layers, np.ndarray) or len(local_layers) != len(layers):
        every = facts.whole("attention.sliding_window_pattern", 6)
        local_layers = [n % every for n in layers]
    local = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base_swa", 10_000.0))}
    return {
        "rope_parameters": {"full_attention": facts.rotary(1_000_000.0), "sliding_attention": local},
        "layer_types": ["sliding_attention" if n else "full_attention" for n in local_layers],
        "sliding_window": facts.whole("attention.sliding_window"),
        "final_logit_softcapping": facts.get("final_logit_softcapping"),
        "query_pre_attn_scalar": _query_scale(facts, 62),
    }


_CAPS = frozenset({"final_logit_softcapping", "attention.sliding_window"})
ARCHITECTURES = {
    "llama": Architecture("llama", "Llama, Mistral, SmolLM2", _DENSE, _biased, permuted=True),
    "qwen2": Architecture("qwen2", "Qwen 2 and 2.5", _DENSE, _plain),
    "qwen3": Architecture("qwen3", "Qwen 3", _DENSE | _QK_NORMS, _biased),
    "gemma": Architecture("gemma", "Gemma", _DENSE, _gemma, plus_one=True),
    "gemma2": Architecture(
        "gemma2", "Gemma 2", _DENSE | _GEMMA_NORMS, _gemma_2, _CAPS | {"attn_logit_softcapping"}, plus_one=True
    ),
    "gemma3": Architecture(
        "gemma3_text", "Gemma 3", _DENSE | _QK_NORMS | _GEMMA_NORMS, _gemma_3,
        _CAPS | {"attention.sliding_window_pattern", "rope.freq_base_swa"}, plus_one=True,
    ),
}  # fmt: skip
"""by the file's `general.architecture`"""


def architecture_of(header: Header) -> Architecture:
    """How a file is laid out.

    Raises:
        TargetError: of an architecture that is not read, or no language model.
    """
    name, kind = header.text("general.architecture"), header.text("general.type")
    if name in ("clip", "mmproj") or kind == "mmproj":
        raise TargetError(
            f"{header.path}: holds the part of a multimodal model that reads images, and no language model; give the "
            "file with the language model"
        )
    if kind not in ("", "model"):
        raise TargetError(f"{header.path}: holds no model ({kind[:80]}); give the file with the model's weights")
    if name not in ARCHITECTURES:
        known = ", ".join(f"{key} ({found.models})" for key, found in ARCHITECTURES.items())
        raise TargetError(
            f"{header.path}: is of the architecture {name[:80] or 'unknown'!r}, which is not read from GGUF files; "
            f"those read are {known}; give the model's own folder or hub id instead"
        )
    return ARCHITECTURES[name]


def configuration(header: Header, rope: F32 | None) -> dict[str, Any]:
    """A file's configuration in transformers' terms, with `model_type`.

    Args:
        rope: what the tensor of rotary factors holds, where there is one.

    Raises:
        TargetError: of an architecture that is not read, something is missing or odd, or the file says what is not
            known.
    """
    found = architecture_of(header)
    name = header.text("general.architecture")
    facts = _Facts(header, name, rope)
    for key, value in header.metadata.items():
        short = key.removeprefix(f"{name}.")
        if short != key and short not in _KEYS | found.keys and _MATTERS.match(short) and not _is_zero(value):
            raise facts.error(f"it says {key[:80]}, which is not known here and may change what the model computes")
    if header.metadata.get(f"{name}.attention.causal", True) is not True:
        raise facts.error("its attention is not causal: it is no decoder-only language model")
    if facts.whole("attention.value_length", facts.head_dim) != facts.head_dim:
        raise facts.error("its keys and values differ in length, which is not read")
    embedding = header.tensors.get(EMBEDDING)
    layers = len({m[1] for m in map(_BLOCK.fullmatch, header.tensors) if m})
    if embedding is None or len(embedding.shape) != 2 or layers != facts.whole("block_count"):
        raise facts.error(
            f"it holds {layers} decoder layers and {'no' if embedding is None else 'an'} embedding, and says that it "
            f"has {facts.whole('block_count')} layers"
        )
    ids = {f"{k}_token_id": header.metadata.get(f"tokenizer.ggml.{v}_token_id") for k, v in _IDS.items()}
    heads = facts.whole("attention.head_count")
    return {
        "model_type": found.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": facts.whole("embedding_length"),
        "intermediate_size": facts.whole("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": facts.whole("attention.head_count_kv", heads),
        "head_dim": facts.head_dim,
        "max_position_embeddings": facts.whole("context_length"),
        "rms_norm_eps": facts.get("attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": HEAD not in header.tensors,
        **{key: value for key, value in ids.items() if isinstance(value, int)},
        **found.more(facts),
    }


def _is_zero(value: Any) -> bool:
    """Of a count of what there is none of."""
    return isinstance(value, int) and not isinstance(value, bool) and value == 0


_IDS = {"bos": "bos", "eos": "eos", "pad": "padding"}
