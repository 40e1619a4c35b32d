"""From tokenised rows to sparse row features: the model, the SAE and the pooling in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geofilter.bank.features import RowFeatures, RowTokens
from geofilter.config import Loading
from geofilter.encode.memory import halve, too_little
from geofilter.encode.model import DTYPES, ResidualModel, embedded_tokens
from geofilter.encode.need import fitting
from geofilter.encode.passes import Pass, Passes
from geofilter.encode.sae import Activations, FeatureEncoder
from geofilter.encode.shares import PooledBatch, TokenShares, WindowTokens, sums
from geofilter.encode.tokens import Encoded, Window, readable
from geofilter.errors import TargetError
from geofilter.files import Notify, silent
from geofilter.rows.row_error import RowError
from geofilter.target.size import MAX_TOKENS
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


class FeatureReader:
    """Model and SAE of one target, loaded and ready to read rows.

    Args:
        decoder: read this decoder of the target's model, fine-tuned perhaps; see `ResidualModel`.
        notify: told once when passes are made smaller for want of memory.
        max_tokens: of the longest window that will be read, by which --max-memory is reckoned.
    """

    def __init__(
        self, target: Target, loading: Loading | None = None, decoder: Any = None, notify: Notify = silent,
        max_tokens: int = MAX_TOKENS,
    ) -> None:  # fmt: skip
        loading = loading or Loading()
        # A decoder that is there already is in no estimate.
        at_once = fitting(target, loading if decoder is None else replace(loading, max_memory=None), max_tokens)
        self.target = target
        self._notify = notify
        self.model = ResidualModel(
            target.model_dir, [target.layer], loading, target.hook.kind, decoder, target.adapter_dir
        )
        self.dtype = self.model.dtype
        self.tokenizer = self.model.tokenizer
        try:
            self.encoder = FeatureEncoder(target.sae_dir, self.model.hook_device, DTYPES[loading.sae_dtype])
        except torch.OutOfMemoryError:
            raise too_little(self.model.hook_device) from None
        self._budget = self._first_budget = at_once.tokens
        self.encoder.chunk = min(self.encoder.chunk, at_once.chunk)
        on_gpu = self.encoder.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.encoder.device) if on_gpu else None

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
            TargetError: not enough memory for a single window.

        Args:
            on_batch: told the rows begun and the tokens done after each pass.
            observe: shown every token activation, see `Observer`.
        """
        each = self._read(rows, None, on_batch, observe) if observe else self._read_once(rows, None, on_batch)
        return each[0]

    def read_divided(
        self,
        rows: Sequence[Encoded],
        shares: TokenShares,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> tuple[list[RowFeatures], list[RowTokens]]:
        """`read`, and how the rows' scores are divided among their tokens."""
        return self._read_once(rows, shares, on_batch)

    def _read_once(
        self, rows: Sequence[Encoded], shares: TokenShares | None, on_batch: Callable[[int, int], None] | None
    ) -> tuple[list[RowFeatures], list[RowTokens]]:
        """`_read`, of rows with the same tokens once."""
        place: dict[tuple[tuple[int, ...], tuple[bool, ...]], int] = {}
        of = [place.setdefault((row.ids, row.mask), len(place)) for row in rows]
        if len(place) == len(rows):
            return self._read(rows, shares, on_batch, None)
        first = [of.index(n) for n in range(len(place))]
        again = [row for i, row in enumerate(rows) if first[of[i]] != i]
        features, tokens = self._read([rows[i] for i in first], shares, on_batch, None)
        if on_batch:
            on_batch(len(again), sum(len(window.ids) for row in again for window in row.windows))
        return [features[n] for n in of], [tokens[n] for n in of] if tokens else []

    def _read(
        self,
        rows: Sequence[Encoded],
        shares: TokenShares | None,
        on_batch: Callable[[int, int], None] | None,
        observe: Observer | None,
    ) -> tuple[list[RowFeatures], list[RowTokens]]:
        windows = [window for row in rows for window in row.windows]
        before = list(itertools.accumulate((sum(window.mask) for window in windows), initial=0))
        alone = [len(row.windows) == 1 for row in rows for _ in row.windows]
        first = {0, *itertools.accumulate(len(row.windows) for row in rows)}
        out: dict[int, RowFeatures] = {}
        divided: dict[int, WindowTokens] = {}
        passes = self.model.passes(windows, self._budget)
        for queued in self._queued(passes):
            read = queued.read
            try:
                with queued.beside(self._stream):
                    kept, pooled = self._pooled(queued)
                    found = pooled.rows()
                    parts = kept.cpu().split(read.counts.tolist())
                    tokens = shares and shares.windows(pooled, parts, [alone[i] for i in read.windows])
            except (RuntimeError, MemoryError) as error:
                self._halve(passes, read, error)
                continue
            out.update(zip(read.windows, found, strict=True))
            divided.update(zip(read.windows, tokens or [], strict=False))
            if observe:
                _show(observe, queued, kept, pooled.acts, before)
            if on_batch:
                on_batch(len(first & set(read.windows)), read.n_tokens)
        ends = list(itertools.accumulate(len(row.windows) for row in rows))
        of = [range(end - len(row.windows), end) for end, row in zip(ends, rows, strict=True)]
        features = [RowFeatures.together([out[i] for i in each]) for each in of]
        if shares is None:
            return features, []
        whole = zip(of, features, strict=True)
        return features, [shares.row([divided.pop(i) for i in each], found) for each, found in whole]

    def _queued(self, passes: Passes) -> Iterator[_Queued]:
        """Passes whose vectors have been asked for, in their order.

        On a GPU the next one has been, too: it has work while the CPU waits for what it has found of this one.
        """
        ahead = 0 if self._stream is None else 1
        queue: list[_Queued] = []
        while True:
            while len(queue) <= ahead and (read := passes.take()) is not None:
                try:
                    residual = self.model.responses(read)[self.target.layer].to(self.encoder.device)
                except (RuntimeError, MemoryError) as error:
                    self._halve(passes, read, error)
                    continue
                queue.append(_Queued(read, residual, self._given()))
            if not queue:
                return
            yield queue.pop(0)

    def _given(self) -> Any:
        """A CUDA event that comes when the device that holds the vectors, which need not be the current one, is done
        with what it has been given; None where there is no GPU.
        """
        return self._stream and torch.cuda.current_stream(self.encoder.device).record_event()

    @torch.inference_mode()
    def _pooled(self, queued: _Queued) -> tuple[torch.Tensor, PooledBatch]:
        """Which response tokens (n,) of a pass are kept, and what was found of them."""
        kept = outlier_free(queued.residual, queued.read.counts)
        return kept, pool(self.encoder, queued.residual[kept], _per(kept, queued.read.counts))

    def _halve(self, passes: Passes, read: Pass, error: BaseException) -> None:
        """Go on in smaller passes from now on, where memory was too little for one.

        Raises:
            TargetError: it was of one window.
            BaseException: the error, if it is another.
        """
        halve(passes, read, error, self.model.device)
        if self._budget == self._first_budget:
            self._notify(f"note: {self.model.device}: too little memory for {read.n_tokens} tokens at once; going on "
                         "with fewer")  # fmt: skip
        self._budget = passes.budget

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
        (queued,) = self._queued(self.model.passes([window], self._budget))
        with queued.beside(self._stream):
            kept, pooled = self._pooled(queued)
            position = np.flatnonzero(window.mask)[kept.cpu().numpy()] - 1 + window.start
            acts = [part.cpu().numpy() for part in (pooled.acts.token, pooled.acts.feature, pooled.acts.value)]
            return pooled.rows()[0], TokenFeatures(position, *acts)


@dataclass(frozen=True, slots=True, eq=False)
class _Queued:
    """A pass that the model has been given."""

    read: Pass
    residual: torch.Tensor
    """(n, d_in) of its response tokens, on the encoder's device; on a GPU not there before `done`"""
    done: Any = None
    """CUDA event"""

    @contextmanager
    def beside(self, stream: Any) -> Iterator[None]:
        """Work on the vectors while the device goes on with the next pass.

        Args:
            stream: of CUDA; None where there is no GPU.
        """
        if stream is None:
            yield
            return
        with torch.cuda.stream(stream):
            stream.wait_event(self.done)
            self.residual.record_stream(stream)
            yield


def _per(kept: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(windows,) how many of each one's consecutive `counts` tokens are kept."""
    window = torch.repeat_interleave(torch.arange(len(counts)), counts).to(kept.device)
    return torch.bincount(window[kept], minlength=len(counts))


def _show(observe: Observer, queued: _Queued, kept: torch.Tensor, acts: Activations, before: Sequence[int]) -> None:
    """Show an observer the activations of a pass.

    Args:
        kept: (n,) of the pass's response tokens.
        before: response tokens before each window.
    """
    each = zip(queued.read.windows, queued.read.counts.tolist(), strict=True)
    number = torch.cat([torch.arange(n) + before[i] for i, n in each])[kept.cpu()]
    observe(number[acts.token.cpu()].numpy(), acts.feature.cpu().numpy(), acts.value.cpu().numpy())


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


def outlier_free(residual: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Which vectors (n, d) have a norm within `OUTLIER_NORM` times the median one of their row.

    Args:
        counts: (rows,) vectors of each row, one after the other.
    """
    norm = residual.float().norm(dim=-1)
    parts = norm.split(counts.tolist())
    bound = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=torch.nan).nanmedian(dim=1).values
    row = torch.repeat_interleave(torch.arange(len(counts)), counts).to(norm.device)
    kept: torch.Tensor = norm <= OUTLIER_NORM * bound[row]
    return kept


def outlier_free_padded(residual: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask (B, T) less outliers of the vectors (B, T, d) that it marks, one at least in every row."""
    kept = mask.clone()
    kept[mask] = outlier_free(residual[mask], mask.sum(1).cpu())
    return kept


@torch.inference_mode()
def pool(encoder: FeatureEncoder, residual: torch.Tensor, count: torch.Tensor) -> PooledBatch:
    """Encode vectors and average each row's activations.

    Args:
        residual: (n, d_in) of the rows' tokens, one row after the other, any float dtype.
        count: (rows,) tokens of each row, one at least, on the encoder's device.
    """
    d_sae, x = encoder.d_sae, residual.float()
    row_of = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    acts = encoder.encode(x)
    # Summed over runs of one (row, feature) in token order: the same bits every time, on the GPU too, and nothing
    # of the size rows x d_sae.
    key, order = torch.sort(row_of[acts.token] * d_sae + acts.feature, stable=True)
    pairs, lengths = key.unique_consecutive(return_counts=True)
    row, feature = pairs // d_sae, pairs % d_sae
    mean = sums(acts.value[order], lengths) / count[row]
    return PooledBatch(acts, order, lengths, row, feature, mean, count, sums(x, count) / count.unsqueeze(1))
