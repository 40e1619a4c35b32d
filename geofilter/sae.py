"""The SAE as a feature encoder: residual vectors in, sparse feature activations out.

Reads SAELens folders (`cfg.json`, `sae_weights.safetensors`) directly, since importing sae-lens costs
seconds; the arithmetic is that of `sae_lens.SAE.encode`, and a test holds the two equal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geofilter.errors import TargetError

CHUNK = 2048
"""tokens encoded at once: bounds the dense pre-activations, (CHUNK, d_sae) float32"""


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Positive feature activations of n tokens, as coordinates; tokens ascending."""

    token: torch.Tensor
    """(nnz,) int64, position in the input"""
    feature: torch.Tensor
    """(nnz,) int64"""
    value: torch.Tensor
    """(nnz,) float32"""


class FeatureEncoder:
    """TopK, JumpReLU or ReLU ("standard") SAE in float32.

    Attributes:
        W_enc: (d_in, d_sae)
        W_dec: (d_sae, d_in); a row is a feature's decoder direction
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        from safetensors.torch import load_file

        cfg = _read_cfg(path)
        self.architecture: str = cfg["architecture"]
        self.k = int(cfg.get("k") or 0)
        self.subtract_b_dec = bool(cfg.get("apply_b_dec_to_input", False))
        try:
            weights = {k: v.to(device, torch.float32) for k, v in load_file(path / "sae_weights.safetensors").items()}
            self.W_enc, self.b_enc = weights["W_enc"], weights["b_enc"]
            self.W_dec, self.b_dec = weights["W_dec"], weights["b_dec"]
            self.threshold = weights["threshold"] if self.architecture == "jumprelu" else None
        except (KeyError, OSError, ValueError) as error:
            raise TargetError(f"{path}: SAE weights cannot be used ({error}); get the folder again") from None
        self.d_in, self.d_sae = self.W_enc.shape

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> Activations:
        """Encode residual vectors x (n, d_in) of any float dtype, in chunks of `CHUNK` tokens."""
        parts = [self._encode_chunk(chunk) for chunk in x.split(CHUNK)]
        starts = range(0, len(x), CHUNK)
        return Activations(
            torch.cat([p.token + start for p, start in zip(parts, starts, strict=True)]),
            torch.cat([p.feature for p in parts]),
            torch.cat([p.value for p in parts]),
        )

    def _encode_chunk(self, x: torch.Tensor) -> Activations:
        x = x.to(self.W_enc.device, torch.float32)
        if self.subtract_b_dec:
            x = x - self.b_dec
        pre = x @ self.W_enc + self.b_enc
        if self.architecture == "topk":
            value, feature = torch.topk(pre, self.k, dim=-1, sorted=False)
            token = torch.arange(len(x), device=x.device).unsqueeze(1).expand_as(feature)
            on = value > 0
            return Activations(token[on], feature[on], value[on])
        floor = self.threshold if self.threshold is not None else torch.zeros((), device=x.device)
        on = (pre > floor) & (pre > 0)
        token, feature = on.nonzero(as_tuple=True)
        return Activations(token, feature, pre[on])

    @torch.inference_mode()
    def decode(self, acts: Activations, n: int) -> torch.Tensor:
        """Reconstruction (n, d_in) float32 of n encoded tokens."""
        dense = torch.zeros((n, self.d_sae), device=self.W_dec.device)
        dense[acts.token, acts.feature] = acts.value
        return dense @ self.W_dec + self.b_dec


def _read_cfg(path: Path) -> dict[str, Any]:
    """A SAELens configuration this encoder computes exactly.

    Raises:
        TargetError: unreadable, or one that needs a step which is not implemented.
    """
    file = path / "cfg.json"
    try:
        cfg: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{file}: cannot be read ({error}); --sae needs a SAELens folder") from None
    wanted: dict[str, tuple[Any, ...]] = {
        "architecture": ("topk", "jumprelu", "standard"),
        "normalize_activations": ("none", None),
        "reshape_activations": ("none", None),
        "rescale_acts_by_decoder_norm": (False, None),
    }
    for key, allowed in wanted.items():
        if cfg.get(key) not in allowed:
            names = ", ".join(str(a).lower() for a in allowed if a is not None)
            raise TargetError(f"{file}: {key} = {cfg.get(key)!r} is not supported; it must be {names}")
    return cfg


def unit_decoder(path: Path) -> npt.NDArray[np.float32]:
    """Unit-normalised decoder directions (d_sae, d_in) of an SAE folder; zero rows stay zero. Needs no torch."""
    from safetensors.numpy import load_file

    w: npt.NDArray[np.float32] = load_file(path / "sae_weights.safetensors")["W_dec"].astype(np.float32)
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(w, norm, out=np.zeros_like(w), where=norm > 0)
    return unit
