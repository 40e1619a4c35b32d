"""A shard: the features of the rows of consecutive input lines, and what makes it believed when it is read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Bools, Digests, Positions, check_array
from geofilter.bank.features import Pooled
from geofilter.errors import RunError
from geofilter.files import atomic
from geofilter.rows.keys import SHAPES
from geofilter.rows.records import Unusable
from geofilter.rows.style import STYLE
from geofilter.run.manifest import Quarantined
from geofilter.run.shard_tokens import ShardTokens
from geofilter.run.tensors import outlined, packed, unpacked

_STORED: dict[str, tuple[type, int]] = {
    "file": (np.int32, 0),
    "line": (np.int64, 0),
    "sha256": (np.uint8, 32),
    "content": (np.uint8, 32),
    "response_tokens": (np.int32, 0),
    "windows": (np.int32, 0),
    "style": (np.float32, len(STYLE)),
    "n_turns": (np.int32, 0),
    "shape": (np.int32, 0),
}
"""the arrays (n,) or (n, columns) of a shard as they are stored: element type and columns"""
_REJECTED = "rejected_pooled."
"""begins the names of the arrays of `Shard.rejected_pooled`"""


@dataclass(frozen=True, slots=True)
class Span:
    """Which input lines of which scan a shard covers."""

    fingerprint: str
    """of the scan's encoding"""
    number: int
    """0-based, among the scan's shards"""
    first: int
    """input lines before it, over all inputs"""
    n_lines: int
    """unusable ones and those passed over included"""


class _Spanning(Protocol):
    @property
    def span(self) -> Span: ...


Read = TypeVar("Read", bound=_Spanning)
"""what is read of a shard"""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Consecutive input lines: the features of the scored ones and the unusable ones."""

    file: I32
    """(n,) position of the row's file in the manifest's list"""
    line: npt.NDArray[np.int64]
    """(n,) 1-based"""
    sha256: Digests
    """(n, 32) of the row's bytes"""
    content: Digests
    """(n, 32) of what is read of the row, see `Row.content_sha256`"""
    response_tokens: I32
    """(n,) of the row; `pooled.n_tokens` of them were read, the others are outliers"""
    windows: I32
    """(n,) windows it was read in"""
    style: F32
    """(n, 9), see `style.STYLE`"""
    n_turns: I32
    """(n,) messages of the row"""
    shape: I32
    """(n,) position of its shape in `keys.SHAPES`"""
    source: tuple[str, ...]
    """(n,) where the row says it comes from, see `records.source_of`"""
    pooled: Pooled
    span: Span
    d_sae: int
    """features of the SAE"""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """rows of which something is told, see `shapes.REMARKS`"""
    unusable: tuple[Unusable, ...] = ()
    """what is written; of a shard that was read see `unusable_of`"""
    tokens: ShardTokens | None = None
    """None where the scan was told --no-token-shares"""
    loss: F32 | None = None
    """(n, 2) loss per response token with the prompt and without it, -1 for what is not known; None where the scan was
    not told --with-loss"""
    paired: Bools | None = None
    """(n,) the row is a preference whose rejected answer was read too; None where the scan was not told --pairs
    difference"""
    rejected_pooled: Pooled | None = None
    """(m,) features of these rows with their rejected answers"""

    def shas(self) -> list[str]:
        """Hex digests."""
        return [bytes(s).hex() for s in self.sha256]

    def peak_spans(self, row: int | Positions, at: Positions) -> list[tuple[int, int] | None]:
        """Where in `Row.response` the tokens stand on which some features are strongest, of a row of this shard.

        Args:
            row: for all of them, or of each.
            at: places of the row's activations in `pooled`.

        Returns:
            start and end in characters; None without token shares, or where it is not known.
        """
        return [None] * len(at) if self.tokens is None else self.tokens.peak_spans(row, at)

    def save(self, path: Path, mode: int | None = None) -> None:
        """Write the shard under a temporary name, then rename it into place.

        Args:
            mode: permissions of the file, since it holds rows that could not be scored.
        """
        arrays = {name: getattr(self, name) for name in _STORED}
        arrays |= self.pooled.arrays("pooled.")
        # As bytes, not as metadata: the header of a safetensors file is limited, a broken line is not.
        arrays["unusable"] = _packed([r.to_json() for r in self.unusable])
        arrays["source"] = _packed(self.source)
        if self.loss is not None:
            arrays["loss"] = self.loss
        if self.paired is not None and self.rejected_pooled is not None:
            arrays |= {"paired": self.paired, **self.rejected_pooled.arrays(_REJECTED)}
        about = {"span": asdict(self.span), "d_sae": self.d_sae, "remarks": dict(self.remarks)}
        if self.tokens is not None:
            arrays |= self.tokens.arrays()
            about["shares"] = list(self.tokens.keys)
        with atomic(path, mode) as handle:
            handle.write(packed(arrays, about))

    @classmethod
    def load(cls, path: Path, *, tokens: bool = True) -> Shard:
        """Read a shard; its `unusable` are left to `unusable_of`.

        Args:
            tokens: unpack its tokens too; else they are only held against their hashes.

        Raises:
            RunError: the file is damaged; what of it, is said.
        """
        about, a = read_some(path)
        try:
            span, d_sae = Span(**about["span"]), int(about["d_sae"])
            stored: dict[str, Any] = {name: a[name] for name in _STORED}
            source, pooled = tuple(_unpacked(a["source"])), Pooled.from_arrays(a, "pooled.")
            paired = a.get("paired")
            shard = cls(
                **stored, source=source, pooled=pooled, span=span, d_sae=d_sae, remarks=about["remarks"],
                loss=a.get("loss"), paired=paired,
                rejected_pooled=None if paired is None else Pooled.from_arrays(a, _REJECTED),
            )  # fmt: skip
            shard._check()
            if tokens and "shares" in about:
                shard = replace(shard, tokens=ShardTokens.from_arrays(a, about["shares"], pooled))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from None
        return shard

    def _check(self) -> None:
        """Refuse values that nothing may be computed with.

        Raises:
            ValueError: which, in words.
        """
        n = len(self.file)
        for name, (kind, columns) in _STORED.items():
            check_array(name, getattr(self, name), kind, (n, columns) if columns else (n,))
        if self.loss is not None:
            check_array("loss", self.loss, np.float32, (n, 2))
        self.pooled.check(self.d_sae, "pooled.")
        if self.paired is not None and self.rejected_pooled is not None:
            check_array("paired", self.paired, np.bool_, (n,))
            self.rejected_pooled.check(self.d_sae, _REJECTED)
            if len(self.rejected_pooled) != (m := int(self.paired.sum())):
                raise ValueError(f"{m} pairs, {len(self.rejected_pooled)} of them with features of both answers")
        if not (len(self.pooled) == len(self.source) == n) or self.span.n_lines < n or self.span.first < 0:
            raise ValueError(f"{n} rows, {len(self.pooled)} of them with features, of {self.span.n_lines} lines")
        place = self.file.astype(np.int64) << 40 | self.line
        if n and (self.file.min() < 0 or self.line.min() < 1 or (np.diff(place) <= 0).any()):
            raise ValueError("lines that do not ascend")
        if n and not (self.shape.min() >= 0 and self.shape.max() < len(SHAPES)):
            raise ValueError("a shape that there is not")
        if n and min(self.windows.min(), self.response_tokens.min(), self.n_turns.min()) < 0:
            raise ValueError("a count below 0")


def _packed(values: Sequence[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(list(values), allow_nan=False).encode(), np.uint8)


def _unpacked(array: npt.NDArray[np.uint8]) -> list[Any]:
    values: list[Any] = json.loads(array.tobytes())
    return values


def _damaged(path: Path, why: object) -> RunError:
    return RunError(f"{path}: damaged ({why}); the same geofilter scan makes it again")


def read_some(path: Path, names: Iterable[str] | None = None) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """`tensors.unpacked`, with an error that names the file and the remedy.

    Raises:
        RunError: the file cannot be read, or an array is not what was written.
    """
    from safetensors import SafetensorError

    try:
        return unpacked(path, names)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from None


def unusable_of(path: Path) -> list[Quarantined]:
    """The quarantine records a shard carries.

    Raises:
        RunError: the file is damaged.
    """
    return _unpacked(read_some(path, ["unusable"])[1]["unusable"])


@dataclass(frozen=True, slots=True)
class Outline:
    """What a shard has, without its rows."""

    path: Path
    span: Span
    n: int
    """scored rows"""
    sizes: tuple[int, int]
    """features of the SAE, and numbers of a residual"""
    mark: str
    """hash of what all its arrays are to be: that they are is known when they are read"""

    @classmethod
    def read(cls, path: Path) -> Outline:
        """Of a shard.

        Raises:
            RunError: the file is damaged.
        """
        from safetensors import SafetensorError

        try:
            about, shapes, mark = outlined(path)
            n, width = shapes["pooled.residual"]
            return cls(path, Span(**about["span"]), n, (int(about["d_sae"]), width), mark)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise _damaged(path, error) from None


def checked(
    paths: Iterable[Path], fingerprint: str, load: Callable[[Path], Read]
) -> Iterator[tuple[Path, Read | None, str]]:
    """What is read of the shards of a scan, in order; None for one that cannot be believed, and why.

    Args:
        paths: of the shards, in the order of their numbers.
        fingerprint: of the scan's encoding.
        load: reads a shard.
    """
    first: int | None = 0
    for path in paths:
        number = int(path.stem.rpartition("-")[2])
        try:
            shard = load(path)
            why = misplaced(shard.span, fingerprint, number, first)
        except RunError as error:
            shard, why = None, str(error).removeprefix(f"{path}: ").partition("; ")[0]
        if shard is None or why:
            first = None  # not known any more: the number alone tells where the next ones belong
            yield path, None, why
        else:
            first = shard.span.first + shard.span.n_lines
            yield path, shard, ""


def misplaced(span: Span, fingerprint: str, number: int, first: int | None) -> str:
    """Why a shard is not the one that belongs in its place; empty where it is.

    Args:
        fingerprint: of the scan's encoding.
        number: that its file's name has.
        first: lines before it; None where that is not known.
    """
    if span.fingerprint != fingerprint:
        return "of another scan"
    if span.number != number:
        return f"a copy of shard {span.number}"
    if first is not None and span.first != first:
        return f"begins after {span.first:,} lines, not {first:,}"
    return ""


def features_of(shards: Iterable[Shard], position: Positions) -> tuple[Pooled, list[str]]:
    """Features of the given rows (0-based over all shards), in the order they are given, and their hashes."""
    order = np.argsort(position, kind="stable")
    ascending = position[order]
    parts: list[Pooled] = []
    shas: list[str] = []
    start = 0
    for shard in shards:
        n = len(shard.pooled)
        here = ascending[(ascending >= start) & (ascending < start + n)] - start
        start += n
        if len(here) or not parts:  # of no rows the first shard tells the width
            parts.append(shard.pooled.take(here))
            shas += [bytes(shard.sha256[i]).hex() for i in here]
    back = np.argsort(order)
    return Pooled.concat(parts).take(back), [shas[i] for i in back]
