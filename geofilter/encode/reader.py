"""From tokenised rows to sparse row features: the model, the SAE and the pooling in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geofilter.bank.features import RowFeatures, RowTokens
from geofilter.config import Loading
from geofilter.encode.model import DTYPES, ResidualModel, embedded_tokens, out_of_memory
from geofilter.encode.sae import Activations, FeatureEncoder
from geofilter.encode.shares import PooledBatch, TokenShares, WindowTokens, sums
from geofilter.encode.tokens import Batch, Encoded, Window, batches, readable
from geofilter.errors import TargetError
from geofilter.rows.row_error import RowError
from geofilter.target.size import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from geofilter.target.target import Target

OUTLIER_NORM = 7.0
"""a response token whose residual norm is over this many times its row's median is an attention sink"""

# Of token activations: numbers of the tokens, counted through the response tokens of all rows that are read, in their
# order; features; values.
Observer = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True, eq=False)
class TokenFeatures:
    """One row token by token, for explanations."""

    position: npt.NDArray[np.int64]
    """(n,) positions of the kept response tokens in the row"""
    token: npt.NDArray[np.int64]
    """(nnz,) index into `position`"""
    feature: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]


def token_budget(device: torch.device) -> int:
    """Padded tokens in one forward pass."""
    return TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET


class FeatureReader:
    """Model and SAE of one target, loaded and ready to read rows.

    Args:
        decoder: read this decoder of the target's model, fine-tuned perhaps; see `ResidualModel`.
    """

    def __init__(self, target: Target, loading: Loading | None = None, decoder: Any = None) -> None:
        loading = loading or Loading()
        self.target = target
        self.model = ResidualModel(
            target.model_dir, [target.layer], loading, target.hook.kind, decoder, target.adapter_dir
        )
        self.dtype = self.model.dtype
        self.tokenizer = self.model.tokenizer
        try:
            self.encoder = FeatureEncoder(target.sae_dir, self.model.hook_device, DTYPES[loading.sae_dtype])
        except torch.OutOfMemoryError:
            raise TargetError(out_of_memory(str(self.model.hook_device))) from None

    @property
    def embedded(self) -> int:
        """Tokens that the model has an embedding for."""
        return embedded_tokens(self.model.model)

    def readable(self, rows: Sequence[Encoded | RowError]) -> list[Encoded | RowError]:
        """The same rows, an error in the place of one that holds a token the model has no embedding for."""
        return readable(rows, self.tokenizer, self.embedded)

    def read(
        self,
        rows: Sequence[Encoded],
        on_batch: Callable[[int, int], None] | None = None,
        observe: Observer | None = None,
    ) -> list[RowFeatures]:
        """Row features in the order of `rows`, each the mean over the response tokens of all its windows.

        Raises:
            TargetError: not enough memory on the GPU.

        Args:
            on_batch: told the rows begun and the tokens done after each batch.
            observe: shown every token activation, see `Observer`.
        """
        return self._read(rows, None, on_batch, observe)[0]

    def read_divided(
        self,
        rows: Sequence[Encoded],
        shares: TokenShares,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> tuple[list[RowFeatures], list[RowTokens]]:
        """`read`, and how the rows' scores are divided among their tokens."""
        return self._read(rows, shares, on_batch, None)

    def _read(
        self,
        rows: Sequence[Encoded],
        shares: TokenShares | None,
        on_batch: Callable[[int, int], None] | None,
        observe: Observer | None,
    ) -> tuple[list[RowFeatures], list[RowTokens]]:
        out: dict[int, RowFeatures] = {}
        divided: dict[int, WindowTokens] = {}
        alone = [len(row.windows) == 1 for row in rows for _ in row.windows]
        windows = [window for row in rows for window in row.windows]
        before = list(itertools.accumulate((sum(window.mask) for window in windows), initial=0))
        first = {0, *itertools.accumulate(len(row.windows) for row in rows)}
        coming = batches(windows, token_budget(self.model.device), self.model.pad_id)
        batch = next(coming, None)
        while batch is not None:
            try:
                keep, residual = self._keep(batch)
                following = next(coming, None)
                pooled = pool(self.encoder, residual, keep, _observed(batch, keep, before, observe))
                out.update(zip(batch.rows, pooled.rows(), strict=True))
                if shares is not None:
                    found = shares.windows(pooled, keep, batch.response_mask, [alone[i] for i in batch.rows])
                    divided.update(zip(batch.rows, found, strict=True))
            except torch.OutOfMemoryError:
                raise TargetError(out_of_memory(str(self.model.device))) from None
            if on_batch:
                on_batch(len(first & set(batch.rows)), int(batch.attention_mask.sum()))
            batch = following
        ends = list(itertools.accumulate(len(row.windows) for row in rows))
        of = [range(end - len(row.windows), end) for end, row in zip(ends, rows, strict=True)]
        features = [RowFeatures.together([out[i] for i in each]) for each in of]
        if shares is None:
            return features, []
        try:
            whole = zip(of, features, strict=True)
            return features, [shares.row([divided.pop(i) for i in each], found) for each, found in whole]
        except torch.OutOfMemoryError:
            raise TargetError(out_of_memory(str(self.model.device))) from None

    @torch.inference_mode()
    def read_tokens(self, row: Encoded) -> tuple[RowFeatures, TokenFeatures]:
        """One row's features, and its activations token by token."""
        pooled, tokens = zip(*map(self._read_window, row.windows), strict=True)
        before = np.cumsum([0, *(len(part.position) for part in tokens)])
        return RowFeatures.together(pooled), TokenFeatures(
            np.concatenate([part.position for part in tokens]),
            np.concatenate([part.token + n for part, n in zip(tokens, before, strict=False)]),
            np.concatenate([part.feature for part in tokens]),
            np.concatenate([part.value for part in tokens]),
        )

    def _read_window(self, window: Window) -> tuple[RowFeatures, TokenFeatures]:
        keep, residual = self._keep(next(batches([window], TOKEN_BUDGET, self.model.pad_id)))
        seen: list[Activations] = []
        pooled = pool(self.encoder, residual, keep, seen.append).rows()[0]
        return pooled, TokenFeatures(
            keep[0].nonzero().squeeze(1).cpu().numpy() - 1 + window.start,
            seen[0].token.cpu().numpy(),
            seen[0].feature.cpu().numpy(),
            seen[0].value.cpu().numpy(),
        )

    def _keep(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Response tokens without outlier norms, (B, T) bool, and the residual (B, T, d_in)."""
        # Before the model runs: a copy to the GPU waits until all that was queued there is done.
        response = batch.response_mask.to(self.encoder.device)
        residual = self.model.residuals(batch.input_ids, batch.attention_mask)[self.target.layer]
        residual = residual.to(self.encoder.device)
        return outlier_free(residual, response), residual


def _observed(
    batch: Batch, keep: torch.Tensor, before: Sequence[int], observe: Observer | None
) -> Callable[[Activations], None] | None:
    """What shows an observer the activations of a batch.

    Args:
        before: response tokens before each window.
    """
    if observe is None:
        return None
    number = batch.response_mask.cumsum(1) - 1 + torch.tensor([before[i] for i in batch.rows]).unsqueeze(1)
    of = number.to(keep.device)[keep]
    return lambda acts: observe(of[acts.token].cpu().numpy(), acts.feature.cpu().numpy(), acts.value.cpu().numpy())


def refuse_infinite(features: Sequence[RowFeatures], places: Iterable[tuple[str, int]]) -> None:
    """Check what was read of rows.

    Args:
        places: file and line of each.

    Raises:
        TargetError: a row's activations are not finite, by file and line.
    """
    for found, (file, line) in zip(features, places, strict=True):
        if not found.n_tokens or not np.isfinite(found.values).all():
            raise TargetError(f"{file}, line {line}: activations are not finite; use --dtype float32")


def outlier_free(residual: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask (B, T) less tokens whose norm is over `OUTLIER_NORM` times the row's median masked norm."""
    norm = residual.float().norm(dim=-1)
    median = norm.masked_fill(~mask, torch.nan).nanmedian(dim=1, keepdim=True).values
    kept: torch.Tensor = mask & (norm <= OUTLIER_NORM * median)
    return kept


@torch.inference_mode()
def pool(
    encoder: FeatureEncoder,
    residual: torch.Tensor,
    keep: torch.Tensor,
    on_tokens: Callable[[Activations], None] | None = None,
) -> PooledBatch:
    """Encode the kept tokens and average each row's activations.

    Args:
        residual: (B, T, d_in), any float dtype.
        keep: (B, T) bool, one True at least in every row.
        on_tokens: shown the activations before pooling; `token` counts the kept tokens.
    """
    row_of, x = keep.nonzero(as_tuple=True)[0], residual[keep].float()
    n_rows, d_sae = len(keep), encoder.d_sae
    count = torch.bincount(row_of, minlength=n_rows)
    acts = encoder.encode(x)
    if on_tokens:
        on_tokens(acts)
    # Summed over runs of one (row, feature) in token order: the same bits every time, on the GPU too, and nothing
    # of the size rows x d_sae.
    key, order = torch.sort(row_of[acts.token] * d_sae + acts.feature, stable=True)
    pairs, lengths = key.unique_consecutive(return_counts=True)
    row, feature = pairs // d_sae, pairs % d_sae
    mean = sums(acts.value[order], lengths) / count[row]
    return PooledBatch(acts, order, lengths, row, feature, mean, count, sums(x, count) / count.unsqueeze(1))
