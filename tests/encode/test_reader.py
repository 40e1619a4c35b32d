"""Pooling against the plainest computation of the same thing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import D_IN, D_SAE, make_sae

from geofilter.encode.reader import pool
from geofilter.encode.sae import FeatureEncoder


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
@pytest.mark.parametrize("rows", [1, 6])
def test_pooled_activations_are_the_mean_over_kept_tokens(tmp_path: Path, architecture: str, rows: int):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", architecture), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(rows, 9, D_IN, generator=generator)
    keep = torch.rand(rows, 9, generator=generator) < 0.5
    keep[:, 3] = True
    seen: list[int] = []
    pooled = pool(encoder, residual, keep, lambda acts: seen.append(len(acts.value)))
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
    assert seen == [sum(len(encoder.encode(residual[b][keep[b]]).value) for b in range(rows))]


def test_a_row_without_an_active_feature_is_empty_and_keeps_its_place(tmp_path: Path):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", "jumprelu"), torch.device("cpu"))
    encoder.b_enc = torch.full((D_SAE,), -0.5)
    residual = torch.randn(3, 4, D_IN, generator=torch.Generator().manual_seed(1)) * 3
    residual[1] = encoder.b_dec  # a pre-activation of -0.5 everywhere
    pooled = pool(encoder, residual, torch.ones(3, 4, dtype=torch.bool))
    assert [len(row.indices) > 0 for row in pooled] == [True, False, True]
    silent = pool(encoder, residual[1:2], torch.ones(1, 4, dtype=torch.bool))
    assert (len(silent), len(silent[0].indices), silent[0].n_tokens) == (1, 0, 4)


def test_encoding_and_decoding_nothing(tmp_path: Path):
    encoder = FeatureEncoder(make_sae(tmp_path / "sae", "topk"), torch.device("cpu"))
    acts = encoder.encode(torch.zeros(0, D_IN))
    assert len(acts.value) == 0
    assert encoder.decode(acts, 0).shape == (0, D_IN)
