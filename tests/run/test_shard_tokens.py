"""What a shard keeps token by token: read again as it was written, or not at all."""

import numpy as np
import pytest
from helpers.tiny import D_SAE

from geofilter.bank.features import FURTHER, Pooled, RowTokens
from geofilter.run.shard_tokens import BLOCK, ShardTokens, rows_of

BANKS = ("a" * 64, "b" * 64)


def made(n: int, banks: tuple[str, ...] = BANKS, seed: int = 0) -> tuple[ShardTokens, Pooled]:
    """Tokens of n rows, the third of them with none; spans with gaps, and two tokens that make one character."""
    rng = np.random.default_rng(seed)
    rows, spans, indices = [], [], []
    for i in range(n):
        size = 0 if i == 2 else int(rng.integers(1, 40))
        edges = np.cumsum(rng.integers(1, 9, 2 * size + 2)).reshape(-1, 2)
        if size > 1:
            edges[1] = edges[0]
        kept = np.concatenate([np.ones(size, bool), [False]])
        indices.append(np.sort(rng.choice(D_SAE, 7 if size else 0, replace=False)))
        peak = rng.integers(0, max(size, 1), len(indices[-1])).astype(np.uint16)
        shares = rng.integers(-127, 128, (len(banks), size)).astype(np.int8)
        rows.append(RowTokens(kept, peak, shares, rng.random(len(banks)).astype(np.float32)))
        spans.append(edges.astype(np.int32))
    nnz = np.cumsum([0, *map(len, indices)])
    pooled = Pooled(nnz, np.concatenate([np.zeros(0), *indices]).astype(np.int32), np.ones(nnz[-1], np.float32),
                    np.array([row.kept.sum() for row in rows], np.int32), np.zeros((n, 2), np.float16))  # fmt: skip
    return ShardTokens.of(rows, spans, banks), pooled


@pytest.mark.parametrize("n", [0, 1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("banks", [BANKS, ()])
def test_what_was_written_is_read(n: int, banks: tuple[str, ...]):
    written, pooled = made(n, banks)
    arrays = written.arrays()
    read = ShardTokens.from_arrays(arrays, banks, pooled)
    for name in ("first", "start", "end", "peak", "shares", "steps"):
        ours, theirs = getattr(written, name), getattr(read, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert read.keys == banks
    wanted = [row for row in (0, 2, 3, BLOCK - 1, 2 * BLOCK + 1, 2 * BLOCK + 4) if row < n]
    found = list(rows_of(arrays, banks, pooled.n_tokens, wanted))
    assert [row for row, *_ in found] == wanted
    for row, start, end, shares in found:
        here = slice(written.first[row], written.first[row + 1])
        np.testing.assert_array_equal(start, written.start[here])
        np.testing.assert_array_equal(end, written.end[here])
        np.testing.assert_array_equal(shares, written.shares[:, here] * written.steps[:, row, None])


def test_where_a_feature_is_strongest():
    tokens, pooled = made(5)
    for row in range(5):
        low, high = pooled.indptr[row : row + 2]
        for at, found in zip(range(low, high), tokens.peak_spans(row, np.arange(low, high)), strict=True):
            token = tokens.first[row] + tokens.peak[at]
            assert found == (int(tokens.start[token]), int(tokens.end[token]))
    second = tokens.peak_spans(0, np.array([1]))
    tokens.peak[0] = FURTHER
    assert tokens.peak_spans(0, np.arange(2)) == [None, *second]


def test_a_strongest_token_further_on_than_can_be_said():
    kept, peak = np.ones(3, bool), np.array([FURTHER], np.uint16)
    row = RowTokens(kept, peak, np.zeros((0, 3), np.int8), np.zeros(0, np.float32))
    pooled = Pooled(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.float32), np.array([3], np.int32),
                    np.zeros((1, 2), np.float16))  # fmt: skip
    tokens = ShardTokens.of([row], [np.array([[0, 1], [1, 2], [2, 3]], np.int32)], ())
    assert ShardTokens.from_arrays(tokens.arrays(), (), pooled).peak.tolist() == [FURTHER]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t, p: {"peak": np.full_like(t.peak, 500)}, "peak has a token that its row has not"),
        (lambda t, p: {"end": t.start - 1}, "ends before it begins"),
        (lambda t, p: {"start": t.start - 10**6, "end": t.end - 10**6}, "or begins before the response"),
        (lambda t, p: {"shares": np.full_like(t.shares, -128)}, "more steps than there are"),
        (lambda t, p: {"steps": -t.steps}, "a step below 0"),
        (lambda t, p: {"steps": np.full_like(t.steps, np.nan)}, "not finite"),
        (lambda t, p: {"steps": t.steps[:, :-1]}, "steps is float32"),
        (lambda t, p: {"shares": t.shares[:1]}, "is not of"),
        (lambda t, p: {"peak": t.peak[:-1]}, "peak is not of"),
    ],
)
def test_values_that_nothing_may_be_done_with(change, why: str):
    tokens, pooled = made(BLOCK + 3)
    parts = {name: getattr(tokens, name) for name in tokens.__slots__}
    arrays = ShardTokens(**{**parts, **change(tokens, pooled)}).arrays()
    with pytest.raises(ValueError, match=why):
        ShardTokens.from_arrays(arrays, BANKS, pooled)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("blocks", b"nonsense", "does not ascend to 8"),
        ("ends", np.array([5, 3]), "does not ascend"),
        ("ends", np.array([3]), r"ends is int64 \(1,\)"),
        ("peak", b"nonsense", "peak cannot be unpacked"),
        ("peak", b"", "peak is not of"),
        ("steps", None, "tokens.steps"),
    ],
)
def test_packed_parts_that_are_broken(name: str, value, why: str):
    tokens, pooled = made(BLOCK + 3)
    arrays = tokens.arrays()
    if value is None:
        del arrays[f"tokens.{name}"]
    else:
        arrays[f"tokens.{name}"] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    with pytest.raises((ValueError, KeyError), match=why):
        ShardTokens.from_arrays(arrays, BANKS, pooled)


def test_a_block_that_unpacks_to_another_size_or_not_at_all():
    tokens, pooled = made(BLOCK + 3)
    arrays = tokens.arrays()
    arrays["tokens.blocks"] = arrays["tokens.blocks"].copy()
    arrays["tokens.blocks"][20:40] ^= 255
    with pytest.raises(ValueError, match=r"tokens\.blocks (cannot be unpacked|is not of)"):
        ShardTokens.from_arrays(arrays, BANKS, pooled)
