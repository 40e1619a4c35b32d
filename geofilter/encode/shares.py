"""How a row's score is divided among its tokens, computed while the row is read.

    share of token t = sum over features f of share_f * a_ft / sum over t of a_ft

share_f, the part of the score that feature f gives the row, is that of `bank.linear.Shares`; the shares of all tokens
and that of the features that are silent in the row sum to its score. They are kept as signed bytes: `RowTokens`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geofilter.arrays import F32, F64, I32, Bools
from geofilter.bank.background import SHARPNESS, Z_HIGH, Z_LOW
from geofilter.bank.features import FURTHER, RowFeatures, RowTokens
from geofilter.bank.linear import Shares
from geofilter.encode.sae import Activations

STEPS = 126
"""steps in the largest share of a row's tokens: rounding puts at most one on it, and a signed byte holds 127"""


@dataclass(frozen=True, slots=True, eq=False)
class PooledBatch:
    """The activations of rows that were read together, in the order of tokens and in that of features."""

    acts: Activations
    """`token` counts the kept tokens of all rows"""
    order: torch.Tensor
    """(nnz,) what sorts the activations by row and feature, tokens ascending"""
    lengths: torch.Tensor
    """(pairs,) activations of each feature of a row"""
    row: torch.Tensor
    """(pairs,)"""
    feature: torch.Tensor
    """(pairs,)"""
    mean: torch.Tensor
    """(pairs,) over the row's kept tokens, float32"""
    count: torch.Tensor
    """(rows,) kept tokens"""
    residual: torch.Tensor
    """(rows, d_in) mean over the row's kept tokens"""

    def rows(self) -> list[RowFeatures]:
        """The features of each row."""
        means = self.residual.half().cpu().numpy()
        per_row = torch.bincount(self.row, minlength=len(self.count)).tolist()
        features = self.feature.to(torch.int32).cpu().split(per_row)
        values = self.mean.cpu().split(per_row)
        kept = self.count.tolist()
        return [RowFeatures(features[b].numpy(), values[b].numpy(), kept[b], means[b]) for b in range(len(kept))]


@dataclass(frozen=True, slots=True, eq=False)
class WindowTokens:
    """A window's part of `RowTokens`."""

    kept: Bools
    feature: I32
    """(nnz,) ascending"""
    peak: npt.NDArray[np.int64]
    """(nnz,) among the window's kept tokens"""
    most: F32
    """(nnz,) activation there"""
    share: F64 | None
    """(n_kept, banks) of a row in one window"""
    acts: Activations | None
    """of a window of several, in memory of the CPU: the row's other windows decide what its features share"""


class TokenShares:
    """Divides the scores of some banks among tokens.

    Args:
        shares: of each bank.
        device: that of the activations.
    """

    def __init__(self, shares: Sequence[Shares], device: torch.device) -> None:
        def table(columns: Iterable[npt.NDArray[Any]]) -> list[torch.Tensor]:
            return [torch.from_numpy(column.astype(np.float64)).to(device) for column in columns]

        self.keys = [s.key for s in shares]
        """see `Shares.key`"""
        self._of = [s.linear.of for s in shares]
        self._slope = table(s.linear.weights / s.sd for s in shares)
        self._centre = table(s.centre for s in shares)
        self._mean = table(s.linear.background.mean for s in shares)
        self._scale = table(s.linear.background.scale for s in shares)
        self._device = device

    def of_features(self, value: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """(n, banks) float64: what features (n,) of the mean activations (n,) give a score, as `Shares.active`."""
        value = value.double()
        out = torch.empty((len(value), len(self._of)), dtype=torch.float64, device=value.device)
        for bank, of in enumerate(self._of):
            scale = self._scale[bank][feature]
            if of == "log":
                x = torch.log1p(SHARPNESS * value / scale)
            else:
                x = ((value - self._mean[bank][feature]) / scale).clamp(Z_LOW, Z_HIGH)
            out[:, bank] = (x - self._centre[bank][feature]) * self._slope[bank][feature]
        return out

    @torch.inference_mode()
    def windows(self, batch: PooledBatch, kept: Sequence[torch.Tensor], alone: Sequence[bool]) -> list[WindowTokens]:
        """What is kept of the windows of a batch.

        Args:
            kept: of each window (n_response,) bool, which tokens were pooled, in memory of the CPU.
            alone: of each window, whether its row has no other.
        """
        acts, n_pairs, device = batch.acts, len(batch.lengths), batch.order.device
        value = acts.value[batch.order]
        pair = torch.repeat_interleave(torch.arange(n_pairs, device=device), batch.lengths)
        most = torch.segment_reduce(value, "max", lengths=batch.lengths) if n_pairs else value
        at = (value == most[pair]).nonzero().squeeze(1)
        first = torch.ones(len(at), dtype=torch.bool, device=device)
        first[1:] = pair[at][1:] != pair[at][:-1]
        before = batch.count.cumsum(0) - batch.count
        peak = acts.token[batch.order[at[first]]] - before[batch.row]
        share: F64 | None = None
        if any(alone):
            of_pair = torch.empty_like(pair)
            of_pair[batch.order] = pair
            total = batch.mean.double() * batch.count[batch.row]
            share = self._of_tokens(acts, of_pair, batch.mean, batch.feature, total, int(batch.count.sum()))
        tokens = np.concatenate([[0], np.cumsum(batch.count.cpu().numpy())])
        pairs = np.searchsorted(batch.row.cpu().numpy(), np.arange(len(alone) + 1))
        features, peaks, strongest = batch.feature.int().cpu().numpy(), peak.cpu().numpy(), most.cpu().numpy()
        out = []
        for b, whole in enumerate(alone):
            here, of = slice(tokens[b], tokens[b + 1]), slice(pairs[b], pairs[b + 1])
            out.append(WindowTokens(
                kept[b].numpy(), features[of], peaks[of], strongest[of],
                None if share is None or not whole else share[here],
                None if whole else _taken(acts, here.start, here.stop),
            ))  # fmt: skip
        return out

    @torch.inference_mode()
    def row(self, windows: Sequence[WindowTokens], features: RowFeatures) -> RowTokens:
        """What is kept of a row of these windows and, over all of them, these features."""
        n_kept = [int(window.kept.sum()) for window in windows]
        before = np.cumsum([0, *n_kept])
        kept = np.concatenate([window.kept for window in windows])
        peak, share = windows[0].peak, windows[0].share
        if len(windows) > 1:
            peak = _first_strongest(windows, before)
            share = np.concatenate(self._of_windows(windows, features, n_kept))
        assert share is not None
        bytes_, step = signed_bytes(share)
        return RowTokens(kept, np.minimum(peak, FURTHER).astype(np.uint16), bytes_, step)

    def _of_windows(self, windows: Sequence[WindowTokens], features: RowFeatures, n_kept: Sequence[int]) -> list[F64]:
        """(n_kept, banks) of each of a row's windows."""
        known = torch.from_numpy(features.indices.astype(np.int64)).to(self._device)
        mean = torch.from_numpy(features.values).to(self._device)
        out = []
        for window, n in zip(windows, n_kept, strict=True):
            assert window.acts is not None
            token, feature, value = (
                part.to(self._device) for part in (window.acts.token, window.acts.feature, window.acts.value)
            )
            acts = Activations(token.long(), feature.long(), value)
            pair = torch.searchsorted(known, acts.feature)
            out.append(self._of_tokens(acts, pair, mean, known, mean.double() * features.n_tokens, n))
        return out

    def _of_tokens(
        self, acts: Activations, pair: torch.Tensor, mean: torch.Tensor, feature: torch.Tensor, total: torch.Tensor,
        n: int,
    ) -> F64:  # fmt: skip
        """(n, banks) shares of n tokens.

        Args:
            pair: (nnz,) of each activation its feature's place in `mean`, `feature` and `total`.
            mean, total: (pairs,) over the row's tokens.
        """
        if not self.keys:
            return np.zeros((n, 0))
        part = (acts.value.double() / total[pair]).unsqueeze(1) * self.of_features(mean, feature)[pair]
        return sums(part, torch.bincount(acts.token, minlength=n)).cpu().numpy()


def _taken(acts: Activations, start: int, end: int) -> Activations:
    """The activations of some consecutive tokens, in little memory."""
    first, last = torch.searchsorted(acts.token, torch.tensor([start, end], device=acts.token.device)).tolist()
    return Activations(
        (acts.token[first:last] - start).int().cpu(), acts.feature[first:last].int().cpu(), acts.value[first:last].cpu()
    )


def _first_strongest(windows: Sequence[WindowTokens], before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(nnz,) where each feature of a row in several windows is strongest, features ascending."""
    feature = np.concatenate([window.feature for window in windows])
    most = np.concatenate([window.most for window in windows])
    at = np.concatenate([window.peak + n for window, n in zip(windows, before, strict=False)])
    order = np.lexsort((at, -most, feature))
    found: npt.NDArray[np.int64] = at[order][np.flatnonzero(np.diff(feature[order], prepend=-1))]
    return found


def sums(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sums of consecutive runs along the first dimension."""
    if not len(lengths):
        return values[:0]
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0)


def signed_bytes(share: F64) -> tuple[npt.NDArray[np.int8], F32]:
    """Shares (n, banks) in steps, (banks, n), and the steps (banks,).

    The running sum is rounded, not each share: so a token, or several in a row, are off by at most one step, and all
    together by half of one.
    """
    step = (np.abs(share).max(0, initial=0) / STEPS).astype(np.float32)
    finite = np.isfinite(step) & (step > 0)
    scaled = np.where(finite, share / np.where(finite, step, 1), 0)
    rounded = np.rint(np.cumsum(scaled, axis=0))
    return np.diff(rounded, axis=0, prepend=0).T.astype(np.int8), np.where(finite, step, 0).astype(np.float32)
