"""Loss per token: how likely the whole model finds a response, with its prompt and without it.

A control for every score of features: what stands out to the model as unlikely wording needs no SAE and no bank. The
loss is the mean negative log-probability of a row's response tokens, in nats; of a row that is read in windows each
response token counts once, in the window that it is scored in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from geofilter.arrays import F32, F64
from geofilter.config import Loading
from geofilter.encode.memory import each_pass
from geofilter.encode.model import choose_device, pad_id
from geofilter.encode.need import token_budget
from geofilter.encode.passes import Pass, Passes
from geofilter.encode.tokens import Encoded
from geofilter.encode.whole import logits_before, whole
from geofilter.errors import TargetError
from geofilter.files import Notify
from geofilter.target.decoder import steady_length
from geofilter.target.hub import CONFIG
from geofilter.target.resolve import whole_model
from geofilter.target.target import Target

NUMBERS = {"cpu": 1 << 27, "cuda": 1 << 29}
"""logits of a pass, about: 0.5 GB and 2 GB, and as much again while their loss is computed"""
UNKNOWN = -1.0
"""stands for the loss of a row that cannot be read without its prompt"""


class LossReader:
    """The whole model of a target, loaded and ready to tell the loss of rows.

    Raises:
        TargetError: the whole model is not there, or cannot be loaded.
    """

    def __init__(self, target: Target, loading: Loading, *, offline: bool, notify: Notify) -> None:
        try:
            folder = whole_model(target, offline=offline, notify=notify)
            _refuse_cut(folder)
            self._model, self.tokenizer = whole(folder, loading, target.adapter_dir)
        except TargetError as error:
            raise TargetError(
                f"--with-loss needs the whole model, all layers and the output head: {error}; or leave --with-loss out"
            ) from None
        self._device = choose_device(loading.device)
        self._pad_id = pad_id(self.tokenizer, self._model)
        self._steady = steady_length(self._model.config.get_text_config(decoder=True))
        numbers = NUMBERS["cpu" if self._device.type == "cpu" else "cuda"]
        vocabulary = len(self._model.get_output_embeddings().weight)
        self._budget = min(token_budget(self._device), max(1, numbers // vocabulary))

    def both(self, rows: Sequence[Encoded], alone: Sequence[Encoded | None]) -> F32:
        """Loss per response token (n, 2) of rows, with their prompts and without.

        Args:
            alone: the rows without their prompts; `UNKNOWN` is the loss of those that are None.

        Raises:
            TargetError: a loss that is not finite, or see `per_token`.
        """
        out = np.full((len(rows), 2), UNKNOWN, np.float32)
        out[:, 0] = self.per_token(rows)
        there = [i for i, row in enumerate(alone) if row is not None]
        out[there, 1] = self.per_token([row for row in alone if row is not None])
        if not np.isfinite(out).all():
            raise TargetError("the loss of a row is not finite; use --dtype float32")
        return out

    def per_token(self, rows: Sequence[Encoded]) -> F64:
        """Mean loss (n,) of each row's response tokens, in nats; rows with the same tokens are read once.

        Raises:
            TargetError: too little memory for a single window.
        """
        place: dict[Encoded, int] = {}
        of = [place.setdefault(row, len(place)) for row in rows]
        windows = [window for row in place for window in row.windows]
        passes = Passes(windows, self._budget, self._pad_id, forests=False, steady=self._steady)
        summed = np.zeros(len(windows))
        for places, found in each_pass(passes, self._summed, self._device):
            summed[list(places)] = found
        start = np.cumsum([0, *(len(row.windows) for row in place)])[:-1]
        n_tokens = np.array([row.n_response for row in place])
        return (np.add.reduceat(summed, start) / n_tokens)[of] if place else np.zeros(0)

    @torch.inference_mode()
    def _summed(self, read: Pass) -> tuple[tuple[int, ...], F64]:
        """The windows of a pass, and the summed loss of each."""
        assert read.attention_mask is not None
        logits = logits_before(self._model, read.input_ids, read.attention_mask, read.response)
        targets = read.input_ids.flatten()[read.response].to(logits.device)
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().cpu()
        summed = np.array([float(part.sum()) for part in each.split(read.counts.tolist())])
        return read.windows, summed


def _refuse_cut(folder: Path) -> None:
    """Refuse a model that has been cut to the layers that an SAE reads: it says so by naming no class.

    Raises:
        TargetError: it is one, or cannot be read.
    """
    try:
        named = json.loads((folder / CONFIG).read_text("utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError) as error:
        raise TargetError(f"{folder / CONFIG}: cannot be read ({error}); get the model again") from None
    if not named:
        raise TargetError(
            f"{folder / CONFIG}: names no architecture, so these may be the first layers alone; get the model again"
        )
