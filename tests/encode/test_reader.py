"""Pooling against the plainest computation of the same thing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import quiet
from helpers.tiny import D_IN, D_SAE, make_sae

from geofilter.config import Loading, TargetChoice
from geofilter.encode.reader import FeatureReader, pool
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import Encoded, encode_row
from geofilter.rows.records import Row
from geofilter.rows.turns import Turn
from geofilter.target.resolve import resolve


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("rows", [1, 6])
def test_pooled_activations_are_the_mean_over_kept_tokens(tmp_path: Path, architecture: str, rows: int):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", architecture), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(rows, 9, D_IN, generator=generator)
    keep = torch.rand(rows, 9, generator=generator) < 0.5
    keep[:, 3] = True
    found = pool(encoder, residual[keep], keep.sum(1))
    pooled = found.rows()
    assert len(pooled) == rows
    for b, row in enumerate(pooled):
        x = residual[b][keep[b]]
        acts = encoder.encode(x)
        dense = torch.zeros(len(x), D_SAE)
        dense[acts.token, acts.feature] = acts.value
        assert row.n_tokens == len(x)
        assert row.indices.tolist() == dense.sum(0).nonzero().squeeze(1).tolist()
        np.testing.assert_allclose(row.values, dense.mean(0)[row.indices.tolist()].numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row.residual, x.mean(0).half().numpy(), atol=1e-3)
    assert len(found.acts.value) == sum(len(encoder.encode(residual[b][keep[b]]).value) for b in range(rows))


def test_a_row_without_an_active_feature_is_empty_and_keeps_its_place(tmp_path: Path):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", "jumprelu"), torch.device("cpu"))
    encoder.b_enc = torch.full((D_SAE,), -0.5)
    residual = torch.randn(3, 4, D_IN, generator=torch.Generator().manual_seed(1)) * 3
    residual[1] = encoder.b_dec  # a pre-activation of -0.5 everywhere
    pooled = pool(encoder, residual.flatten(0, 1), torch.tensor([4, 4, 4])).rows()
    assert [len(row.indices) > 0 for row in pooled] == [True, False, True]
    silent = pool(encoder, residual[1], torch.tensor([4])).rows()
    assert (len(silent), len(silent[0].indices), silent[0].n_tokens) == (1, 0, 4)


def test_encoding_and_decoding_nothing(tmp_path: Path):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", "topk"), torch.device("cpu"))
    acts = encoder.encode(torch.zeros(0, D_IN))
    assert len(acts.value) == 0
    assert encoder.decode(acts, 0).shape == (0, D_IN)


def test_a_row_in_windows_is_pooled_over_the_tokens_of_all_of_them(tiny):
    """Window by window, each read alone: the mean weighted by tokens, and the activations at the row's positions."""
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    turns = (Turn("user", "word " * 20), Turn("assistant", "ask the doctor " * 30))
    long = encode_row(Row("f", 1, "0", "messages", turns, {}), reader.tokenizer, 32)
    short = encode_row(
        Row("f", 2, "0", "messages", (Turn("user", "a"), Turn("assistant", "b")), {}), reader.tokenizer, 32
    )
    assert len(long.windows) > 3
    done: list[int] = []
    pooled = reader.read([short, long, short], lambda rows, tokens: done.append(rows))
    assert sum(done) == 3
    seen: list[tuple[np.ndarray, ...]] = []
    reader.read([short, long, short], observe=lambda *of: seen.append(of))
    number, feature, value = (np.concatenate(of) for of in zip(*seen, strict=True))
    of_long = (number >= short.n_response) & (number < short.n_response + long.n_response)
    alone = [reader.read([Encoded(w.ids, w.mask, (w,))])[0] for w in long.windows]
    dense = np.zeros((len(alone), D_SAE))
    for i, part in enumerate(alone):
        dense[i, part.indices] = part.values * part.n_tokens
    total = sum(part.n_tokens for part in alone)
    assert pooled[1].n_tokens == total <= long.n_response
    np.testing.assert_allclose(pooled[1].values, dense.sum(0)[pooled[1].indices] / total, rtol=1e-4, atol=1e-6)
    assert set(pooled[1].indices) == set(np.flatnonzero(dense.sum(0)))
    again, tokens = reader.read_tokens(long)
    np.testing.assert_allclose(again.values, pooled[1].values, rtol=1e-4, atol=1e-6)
    assert all(long.mask[p] for p in tokens.position)
    assert len(tokens.position) == len(set(tokens.position.tolist())) == total
    # What is observed of a row is at its own response tokens.
    place = np.flatnonzero(long.mask)[number[of_long] - short.n_response]
    order = np.lexsort((feature[of_long], place))
    expected = np.lexsort((tokens.feature, tokens.position[tokens.token]))
    assert place[order].tolist() == tokens.position[tokens.token][expected].tolist()
    np.testing.assert_allclose(value[of_long][order], tokens.value[expected], rtol=1e-3, atol=1e-5)
    mean = np.bincount(tokens.feature, tokens.value, D_SAE)[again.indices] / total
    np.testing.assert_allclose(mean, again.values, rtol=1e-4, atol=1e-6)
    for each, one in zip((pooled[0], pooled[2]), [reader.read([short])[0]] * 2, strict=True):
        np.testing.assert_allclose(each.values, one.values, rtol=1e-4, atol=1e-6)
