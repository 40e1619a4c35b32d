"""The SAE as a feature encoder: vectors of a hook in, sparse feature activations out.

Reads SAELens folders (`cfg.json`, `sae_weights.safetensors`) directly, since importing sae-lens costs
seconds; the arithmetic is that of `sae_lens.SAE.encode`, and a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geofilter.errors import TargetError
from geofilter.target.sae_folder import CFG, WEIGHTS, decoder_shape, open_weights, read_computed, refuse_more_than_all
from geofilter.target.size import usual_chunk

BLOCK = 1 << 14
"""encoder columns widened to float32 at once when they are stored in bfloat16"""


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
    """TopK, JumpReLU or ReLU ("standard") SAE; computes in float32.

    Only the encoder is held in memory: decoder directions are read from the file where they are needed (`decode`,
    `sae_folder.unit_decoder`). With bfloat16 storage the encoder takes half the memory; its columns are widened block
    by block, so that products and sums are float32 as ever and only the weights are rounded.

    Args:
        path: SAELens folder.
        dtype: of the stored encoder, float32 or bfloat16.

    Attributes:
        W_enc: (d_in, d_sae)
        b_enc, threshold: (d_sae,) float32
        b_dec: (d_in,) float32

    Raises:
        TargetError: a configuration that is not computed or has an odd value, or weights that cannot be read or are
            of other shapes than it says.
    """

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        cfg = read_computed(path)
        self.path = path
        self.device = device
        self.architecture: str = cfg["architecture"]
        self.k: int = cfg["k"] if self.architecture == "topk" else 0
        self.subtract_b_dec = bool(cfg.get("apply_b_dec_to_input", False))
        self.W_enc = self.tensor("W_enc", dtype)
        self.b_enc, self.b_dec = self.tensor("b_enc"), self.tensor("b_dec")
        self.threshold = self.tensor("threshold") if self.architecture == "jumprelu" else None
        self.d_in, self.d_sae = decoder_shape(path)
        self._check_shapes(cfg)
        self.chunk = usual_chunk(self.d_sae)

    def _check_shapes(self, cfg: dict[str, Any]) -> None:
        d_in, d_sae = cfg["d_in"], cfg.get("d_sae") or self.d_sae
        for name, value, shape in [
            ("W_dec", (self.d_sae, self.d_in), (d_sae, d_in)), ("W_enc", self.W_enc.shape, (d_in, d_sae)),
            ("b_enc", self.b_enc.shape, (d_sae,)), ("b_dec", self.b_dec.shape, (d_in,)),
            ("threshold", (d_sae,) if self.threshold is None else self.threshold.shape, (d_sae,)),
        ]:  # fmt: skip
            if tuple(value) != shape:
                raise TargetError(
                    f"{self.path / WEIGHTS}: {name} has the shape {tuple(value)}, not {shape} as its {CFG} says; get "
                    "the folder again"
                )
        refuse_more_than_all(self.k, d_sae, self.path / CFG)

    def tensor(self, name: str, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
        """Read one of the folder's weights.

        Raises:
            TargetError: it cannot be read, or holds numbers that are not finite: a feature with one would never fire.
        """
        with open_weights(self.path, "pt") as file:
            found: torch.Tensor = file.get_tensor(name)
        # The least and the greatest are not finite where a number is not, and take no copy of them all.
        if not found.is_floating_point() or (found.numel() and not torch.stack(found.aminmax()).isfinite().all()):
            raise TargetError(f"{self.path / WEIGHTS}: {name} is not finite throughout; get the folder again")
        return found.to(device or self.device, dtype)

    @torch.inference_mode()
    def encode(self, x: torch.Tensor) -> Activations:
        """Encode vectors x (n, d_in) of any float dtype, in chunks of `chunk` tokens."""
        starts = range(0, max(1, len(x)), self.chunk)
        parts = [self._encode_chunk(x[start : start + self.chunk]) for start in starts]
        return Activations(
            torch.cat([p.token + start for p, start in zip(parts, starts, strict=True)]),
            torch.cat([p.feature for p in parts]),
            torch.cat([p.value for p in parts]),
        )

    def _encode_chunk(self, x: torch.Tensor) -> Activations:
        x = x.to(self.device, torch.float32)
        if self.subtract_b_dec:
            x = x - self.b_dec
        pre = self._pre(x)
        if self.architecture == "topk":
            value, feature = torch.topk(pre, self.k, dim=-1, sorted=False)
            token = torch.arange(len(x), device=x.device).unsqueeze(1).expand_as(feature)
            on = value > 0
            return Activations(token[on], feature[on], value[on])
        on = pre > (0 if self.threshold is None else self.threshold.clamp(min=0))
        at = on.flatten().nonzero().squeeze(1)
        return Activations(at // self.d_sae, at % self.d_sae, pre.flatten()[at])

    def _pre(self, x: torch.Tensor) -> torch.Tensor:
        """Pre-activations (n, d_sae) float32 of x (n, d_in) float32."""
        if self.W_enc.dtype == torch.float32:
            return (x @ self.W_enc).add_(self.b_enc)
        pre = torch.empty((len(x), self.d_sae), device=x.device)
        for start in range(0, self.d_sae, BLOCK):
            columns = slice(start, start + BLOCK)
            torch.mm(x, self.W_enc[:, columns].float(), out=pre[:, columns])
        return pre.add_(self.b_enc)

    @torch.inference_mode()
    def decode(self, acts: Activations, n: int) -> torch.Tensor:
        """Reconstruction (n, d_in) float32 of n encoded tokens; reads the decoder rows it needs from the file."""
        used, row = acts.feature.unique(return_inverse=True)
        decoder = self.tensor("W_dec", device=torch.device("cpu"))[used.cpu()].to(self.device)
        at = torch.stack([acts.token, row])
        sparse = torch.sparse_coo_tensor(at, acts.value, (n, len(used)), device=decoder.device, check_invariants=False)
        out: torch.Tensor = torch.sparse.mm(sparse, decoder) + self.b_dec
        return out
