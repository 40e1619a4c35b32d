"""A row's score divided among its tokens: against the plainest computation of the same thing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import quiet
from helpers.tiny import D_IN, D_SAE, make_sae, random_pooled

from geofilter.bank.background import Background
from geofilter.bank.features import FURTHER, Pooled
from geofilter.bank.linear import Linear, Shares
from geofilter.config import Loading, TargetChoice
from geofilter.encode.reader import FeatureReader, pool
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.shares import STEPS, TokenShares, signed_bytes
from geofilter.encode.tokens import encode_row
from geofilter.rows.records import Row
from geofilter.rows.turns import Turn
from geofilter.target.resolve import resolve

CPU = torch.device("cpu")


def shares(of: str, seed: int = 0) -> Shares:
    """Of random weights, some of them 0, under the usual activations of random rows."""
    reference, _ = random_pooled(40, seed=seed + 7)
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(D_SAE) < 0.8, rng.standard_normal(D_SAE), 0)
    linear = Linear(Background.of(reference, D_SAE), weights, of)
    return Shares.of(linear, reference, float(linear.scores(reference).std()))


BOTH = [shares("log", 0), shares("z", 1)]


def test_features_share_as_the_bank_s_own_formula_has_it():
    pooled, _ = random_pooled(9, seed=3)
    values = np.concatenate([pooled.values, [0, 50]]).astype(np.float32)  # silent, and clipped
    pooled = Pooled(np.array([0, len(values)]), np.concatenate([pooled.indices, [3, 4]]).astype(np.int32), values,
                    pooled.n_tokens[:1], pooled.residual[:1])  # fmt: skip
    found = TokenShares(BOTH, CPU).of_features(torch.from_numpy(values), torch.from_numpy(pooled.indices).long())
    for bank, each in enumerate(BOTH):
        plain = each.linear.values(pooled) - each.linear.absent()[pooled.indices]
        share = plain + each.linear.absent()[pooled.indices] - each.centre[pooled.indices]
        share = share * each.linear.weights[pooled.indices] / each.sd
        np.testing.assert_allclose(found[:, bank].numpy(), share, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_rows_in_one_batch(tmp_path: Path, architecture: str):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", architecture), CPU)
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(5, 9, D_IN, generator=generator)
    response = torch.rand(5, 9, generator=generator) < 0.8
    response[:, 3] = True
    keep = response & (torch.rand(5, 9, generator=generator) < 0.8)
    keep[:, 3] = True
    residual[2, 5] = residual[2, 4]  # equal activations: the first counts
    keep[2, 4:6] = response[2, 4:6] = True
    divide = TokenShares(BOTH, CPU)
    batch = pool(encoder, residual[keep], keep.sum(1))
    windows = divide.windows(batch, [k[r] for k, r in zip(keep, response, strict=True)], [True] * 5)
    for b, (window, features) in enumerate(zip(windows, batch.rows(), strict=True)):
        found = divide.row([window], features)
        assert found.kept.tolist() == keep[b][response[b]].tolist()
        x = residual[b][keep[b]]
        acts = encoder.encode(x)
        dense = np.zeros((len(x), D_SAE), np.float32)
        dense[acts.token.numpy(), acts.feature.numpy()] = acts.value.numpy()
        assert found.peak.tolist() == dense[:, features.indices].argmax(0).tolist()
        pooled = Pooled.of([features], D_IN)
        for bank, each in enumerate(BOTH):
            _, share = each.active(each.linear.excess(pooled))
            part = dense[:, features.indices] / dense[:, features.indices].sum(0) * share
            step = found.step[bank]
            assert step == pytest.approx(np.abs(part.sum(1)).max() / STEPS, rel=1e-5)
            off = np.cumsum(found.shares[bank] * step) - np.cumsum(part.sum(1))
            assert np.abs(off).max() <= 0.5 * step + 1e-5
            # The shares of tokens and of silent features are the score.
            score = float(each.linear.scores(pooled)[0] / each.sd - reference_mean(each))
            assert part.sum() + each.absent(pooled.indices) == pytest.approx(score, abs=1e-4)


def reference_mean(each: Shares) -> float:
    """The mean of the reference rows' standard scores before it is taken off."""
    return float(each.centre @ each.linear.weights / each.sd)


def test_rounding_keeps_every_run_of_tokens_within_a_step():
    rng = np.random.default_rng(0)
    for n in (1, 2, 300):
        share = rng.standard_normal((n, 3)) * [1e-6, 1, 1e4]
        share[:, 1] = np.abs(share[:, 1])  # all to one side, where rounding each alone would add up
        found, step = signed_bytes(share)
        assert (found.dtype, step.dtype, found.shape) == (np.int8, np.float32, (3, n))
        off = np.cumsum(found * step[:, None].astype(float), axis=1) - np.cumsum(share.T, axis=1)
        runs = np.concatenate([np.zeros((3, 1)), off], axis=1)
        assert ((runs.max(1) - runs.min(1)) <= step * 1.001).all()
        assert (np.abs(off[:, -1]) <= step * 0.501).all()
        assert (np.abs(found).max(1) >= STEPS - 1).all() and np.abs(found.astype(int)).max() <= 127
    found, step = signed_bytes(np.array([[0.0, np.nan], [0.0, 1.0]]))
    assert (found.tolist(), step.tolist()) == ([[0, 0], [0, 0]], [0, 0])


def test_a_row_in_windows_is_divided_as_a_whole(tiny):
    """Whatever windows it is read in, a feature's share goes to the tokens of all of them."""
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    turns = (Turn("user", "word " * 20), Turn("assistant", "ask the doctor, fool " * 30))
    long = encode_row(Row("f", 1, "0", "messages", turns, {}), reader.tokenizer, 32)
    short = encode_row(
        Row("f", 2, "0", "messages", (Turn("user", "a"), Turn("assistant", "b")), {}), reader.tokenizer, 32
    )
    divide = TokenShares(BOTH, CPU)
    features, found = reader.read_divided([short, long, short], divide)
    plain = reader.read([short, long, short])
    for mine, other in zip(features, plain, strict=True):
        np.testing.assert_array_equal(mine.values, other.values)
    whole, tokens = reader.read_tokens(long)
    assert len(long.windows) > 3 and whole.n_tokens == found[1].kept.sum()
    dense = np.zeros((whole.n_tokens, D_SAE))
    dense[tokens.token, tokens.feature] = tokens.value
    active = dense[:, whole.indices]
    assert len(found[1].peak) == len(whole.indices) > 1
    strongest = active[found[1].peak, np.arange(len(whole.indices))]
    np.testing.assert_allclose(strongest, active.max(0), rtol=1e-5)
    assert (active[: found[1].peak.max()].max() > 0) and found[1].peak.max() > long.windows[0].mask.count(True)
    pooled = Pooled.of([whole], D_IN)
    for bank, each in enumerate(BOTH):
        _, share = each.active(each.linear.excess(pooled))
        part = (active / active.sum(0) * share).sum(1)
        off = np.cumsum(found[1].shares[bank] * found[1].step[bank]) - np.cumsum(part)
        assert np.abs(off).max() <= 0.5 * found[1].step[bank] + 1e-4
    np.testing.assert_array_equal(found[0].shares, found[2].shares)


def test_without_banks_the_strongest_tokens_are_kept_alone(tiny):
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    turns = (Turn("user", "word"), Turn("assistant", "ask the doctor " * 4))
    encoded = [encode_row(Row("f", 1, "0", "messages", turns, {}), reader.tokenizer, size) for size in (64, 8)]
    features, found = reader.read_divided(encoded, TokenShares([], CPU))
    assert len(encoded[1].windows) > 1
    for row, one in zip(features, found, strict=True):
        assert (one.shares.shape, one.step.shape) == ((0, row.n_tokens), (0,))
        assert len(one.peak) == len(row.indices) and (one.peak < row.n_tokens).all()
    assert reader.read_divided([], TokenShares(BOTH, CPU)) == ([], [])
    assert FURTHER > 8


def test_the_key_says_what_shares_are_computed_with():
    same = shares("log", 0)
    assert same.key == BOTH[0].key
    others = [shares("z", 0), shares("log", 1), Shares(same.linear, same.centre, same.sd * 2),
              Shares(same.linear, same.centre + 1, same.sd)]  # fmt: skip
    assert len({same.key, *(other.key for other in others)}) == 5
