import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import D_IN, D_SAE, make_sae
from safetensors.torch import load_file, save_file

from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import TargetError
from geofilter.files import package_data
from geofilter.target.named import known
from geofilter.target.sae_folder import unit_decoder

CPU = torch.device("cpu")


def dense(encoder: FeatureEncoder, x: torch.Tensor) -> torch.Tensor:
    acts = encoder.encode(x)
    out = torch.zeros(len(x), encoder.d_sae)
    out[acts.token, acts.feature] = acts.value
    return out


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_encode_and_decode_equal_sae_lens(tmp_path: Path, architecture: str):
    from sae_lens import SAE

    folder = make_sae(tmp_path / architecture, architecture)
    theirs, ours = SAE.load_from_disk(folder), FeatureEncoder(folder, CPU)
    x = torch.randn(3000, D_IN, generator=torch.Generator().manual_seed(3))  # more than one chunk
    with torch.no_grad():
        expected = theirs.encode(x)
        decoded = theirs.decode(expected)
    torch.testing.assert_close(dense(ours, x), expected)
    torch.testing.assert_close(ours.decode(ours.encode(x), len(x)), decoded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_stored_in_half_precision_are_read_as_what_they_are(tmp_path: Path, dtype: torch.dtype):
    """numpy has no bfloat16, and the decoder's directions are read without torch."""
    folder = make_sae(tmp_path / "sae", "jumprelu")
    stored = {name: value.to(dtype) for name, value in load_file(folder / "sae_weights.safetensors").items()}
    save_file(stored, folder / "sae_weights.safetensors")
    found = unit_decoder(folder)
    assert found.dtype == np.float32
    wanted = stored["W_dec"].float() / stored["W_dec"].float().norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)
    encoder = FeatureEncoder(folder, CPU)
    assert encoder.W_enc.dtype == torch.float32 and torch.equal(encoder.W_enc, stored["W_enc"].float())


def test_weights_of_a_type_that_is_not_read_are_an_error(tmp_path: Path):
    folder = make_sae(tmp_path / "sae")
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, "W_dec": weights["W_dec"].to(torch.float8_e4m3fn)}, folder / "sae_weights.safetensors")
    with pytest.raises(TargetError, match="W_dec is stored as F8_E4M3; store it as float32, float16 or bfloat16"):
        unit_decoder(folder)


def test_the_shipped_sae_encodes_identically_through_sae_lens():
    from sae_lens import SAE

    row = known()["smollm2-135m"]
    folder = package_data(row["package_sae"])
    theirs, ours = SAE.load_from_disk(folder), FeatureEncoder(folder, CPU)
    assert theirs.cfg.metadata.hook_name == row["hook"].format(layer=row["layer"])
    x = 5 * torch.randn(64, row["d_in"], generator=torch.Generator().manual_seed(4)) + ours.b_dec
    with torch.inference_mode():
        torch.testing.assert_close(dense(ours, x), theirs.encode(x))


def test_unit_decoder_has_unit_rows_and_keeps_zero_rows(tmp_path: Path):
    folder = make_sae(tmp_path / "sae")
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"] = 3 * weights["W_dec"]
    weights["W_dec"][5] = 0
    save_file(weights, folder / "sae_weights.safetensors")
    norm = np.linalg.norm(unit_decoder(folder), axis=1)
    assert norm[5] == 0
    np.testing.assert_allclose(np.delete(norm, 5), np.ones(D_SAE - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("architecture", "gated", "architecture = 'gated' is not supported; it must be topk, jumprelu, standard"),
        (
            "normalize_activations",
            "layer_norm",
            "normalize_activations = 'layer_norm' is not supported; it must be none",
        ),
        (
            "rescale_acts_by_decoder_norm",
            True,
            "rescale_acts_by_decoder_norm = True is not supported; it must be false",
        ),
    ],
)
def test_an_sae_that_needs_another_step_is_refused(tmp_path: Path, key: str, value: object, text: str):
    folder = make_sae(tmp_path / "sae")
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, key: value}))
    with pytest.raises(TargetError) as caught:
        FeatureEncoder(folder, CPU)
    assert str(caught.value) == f"{folder / 'cfg.json'}: {text}"


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_bfloat16_storage_computes_in_float32(tmp_path: Path, architecture: str, monkeypatch):
    """The rounded weights, and nothing else rounded: equal to a float32 encoder that holds those weights."""
    monkeypatch.setattr("geofilter.encode.sae.BLOCK", 50)  # several blocks, the last one short
    folder = make_sae(tmp_path / "sae", architecture)
    stored = FeatureEncoder(folder, CPU, torch.bfloat16)
    assert stored.W_enc.dtype == torch.bfloat16
    assert stored.b_enc.dtype == stored.b_dec.dtype == torch.float32
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_enc"] = weights["W_enc"].bfloat16().float()
    save_file(weights, folder / "sae_weights.safetensors")
    x = torch.randn(300, D_IN, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(dense(stored, x), dense(FeatureEncoder(folder, CPU), x))


def test_wide_saes_are_encoded_in_smaller_chunks(tmp_path: Path, monkeypatch):
    folder = make_sae(tmp_path / "sae", "jumprelu")
    x = torch.randn(300, D_IN, generator=torch.Generator().manual_seed(3))
    whole = FeatureEncoder(folder, CPU)
    monkeypatch.setattr("geofilter.target.size.PRE_ACTIVATIONS", 7 * D_SAE)
    small = FeatureEncoder(folder, CPU)
    assert (whole.chunk, small.chunk) == (2048, 7)
    torch.testing.assert_close(dense(small, x), dense(whole, x))
