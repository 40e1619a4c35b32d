"""The plain ways, written with transformers and sae-lens alone: whole models, all features of every token, their mean.

None of geofilter's arithmetic is used, so that they are what its features are held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geofilter.bank.features import RowFeatures
from geofilter.encode.tokens import Encoded

OUTLIER_NORM = 7.0
"""a response token whose residual norm is over so many times the median of its row's is left out, as geofilter does"""
BATCH = 8
"""rows of a padded pass"""


@dataclass(frozen=True, eq=False)
class RowMean:
    """One row's mean activations."""

    dense: torch.Tensor
    """(d_sae,) on the CPU"""
    n_tokens: int


def kept(residual: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask (T,) of response tokens less those of outlier norm in the residual (T, d)."""
    norm = residual.float().norm(dim=-1)
    return mask & (norm <= OUTLIER_NORM * norm[mask].median())


def row_mean(acts: torch.Tensor, residual: torch.Tensor, mask: torch.Tensor) -> RowMean:
    """Mean of activations (T, d_sae) over the kept response tokens."""
    keep = kept(residual, mask)
    return RowMean(acts[keep].float().mean(0).cpu(), int(keep.sum()))


def sparse(rows: Sequence[RowMean]) -> list[RowFeatures]:
    """As geofilter stores them."""
    out = []
    for row in rows:
        values = row.dense.numpy()
        on = np.flatnonzero(values)
        out.append(RowFeatures(on.astype(np.int32), values[on], row.n_tokens, np.zeros(0, np.float16)))
    return out


def load_sae(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """The SAE as sae-lens reads it."""
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder), device=str(device)).to(device, dtype)


class Plain:
    """A whole model with its SAE.

    Args:
        folder: of the model, with all layers and the output head.
        layer: that the SAE reads.
    """

    def __init__(self, folder: Path, sae_dir: Path, layer: int, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # What applies Gemma 2's soft cap on attention scores.
        more = {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map={"": device}, local_files_only=True, **more
        ).eval()
        self.sae = load_sae(sae_dir, device)
        self.layer, self.device = layer, device

    def linear_weights(self) -> list[torch.Tensor]:
        """Of the linear layers of all blocks up to the one that is read."""
        blocks = self.model.model.layers[: self.layer + 1]
        return [m.weight for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)]

    @torch.inference_mode()
    def single(self, rows: Sequence[Encoded]) -> list[RowMean]:
        """One row a pass, without padding."""
        out = []
        for row in rows:
            ids = torch.tensor([row.ids], device=self.device)
            x = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[self.layer + 1][0]
            out.append(row_mean(self.sae.encode(x.float()), x, torch.tensor(row.mask, device=self.device)))
        return out

    @torch.inference_mode()
    def padded(self, rows: Sequence[Encoded]) -> list[RowMean]:
        """Eight rows a pass in the order of the file, padded at the end."""
        out = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            width = max(len(row.ids) for row in part)
            ids, attention = (torch.zeros(len(part), width, dtype=torch.int64) for _ in range(2))
            for i, row in enumerate(part):
                ids[i, : len(row.ids)] = torch.tensor(row.ids)
                attention[i, : len(row.ids)] = 1
            x = self.model(
                input_ids=ids.to(self.device), attention_mask=attention.to(self.device), output_hidden_states=True,
                use_cache=False,
            ).hidden_states[self.layer + 1]  # fmt: skip
            acts = self.sae.encode(x.float())
            for i, row in enumerate(part):
                n = len(row.ids)
                out.append(row_mean(acts[i, :n], x[i, :n], torch.tensor(row.mask, device=self.device)))
        return out
