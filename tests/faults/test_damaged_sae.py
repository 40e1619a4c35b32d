"""SAEs whose weights or configuration cannot be computed with: refused, within limits of time and memory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.command import chat, write_rows
from helpers.faults import apart, one_line
from helpers.tiny import D_IN, D_SAE
from safetensors.torch import load_file, save_file

from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import TargetError
from geofilter.target.sae_folder import unit_decoder

pytestmark = pytest.mark.usefixtures("short_background")

WEIGHTS, CFG = "sae_weights.safetensors", "cfg.json"
Change = Callable[[torch.Tensor], torch.Tensor | None]


def with_one(value: float) -> Change:
    def change(weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[7] = value
        return weight

    return change


WEIGHT_CHANGES: dict[str, Change] = {
    "NaN": with_one(float("nan")),
    "infinite": with_one(float("inf")),
    "of whole numbers": lambda weight: weight.to(torch.int32),
    "of bytes": lambda weight: weight.to(torch.uint8),
    "shorter": lambda weight: weight[:-1].clone(),
    "flat": lambda weight: weight.reshape(-1, 1).clone(),
    "empty": lambda weight: weight[:0].clone(),
    "missing": lambda _: None,
}


def build(folder: Path, model: Path, sae: Path):
    """Something that reads with the SAE."""
    write_rows(folder / "bad.jsonl", [chat(f"ask {i}?", f"you fool, {i} times no") for i in range(10)])
    write_rows(folder / "good.jsonl", [chat(f"ask {i}?", f"the answer is that {i} works") for i in range(10)])
    return apart(
        "bank", "build", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "bank", "--no-prior",
        "--model", model, "--sae", sae, cwd=folder,
    )  # fmt: skip


@pytest.fixture
def sae(tiny, tmp_path: Path) -> Path:
    """A copy of one that fits the model."""
    folder = tmp_path / "sae"
    shutil.copytree(tiny[1], folder)
    return folder


def damaged(sae: Path, name: str, what: str) -> None:
    weights = load_file(sae / WEIGHTS)
    changed = WEIGHT_CHANGES[what](weights.pop(name))
    save_file({**weights, **({} if changed is None else {name: changed})}, sae / WEIGHTS)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_weights(name: str, sae: Path, tiny, tmp_path: Path, long: bool):
    kept = (sae / WEIGHTS).read_bytes()
    every = list(WEIGHT_CHANGES)
    for what in every if long else every[len(name) % 4 :: 4]:
        (sae / WEIGHTS).write_bytes(kept)
        damaged(sae, name, what)
        print(name, what)  # noqa: T201 (seen where it fails)
        done = build(tmp_path, tiny[0], sae)
        assert done.code == 3, done.stderr
        assert str(sae) in one_line(done)
        assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("what", WEIGHT_CHANGES)
def test_thresholds(what: str, sae: Path):
    """Of a JumpReLU SAE."""
    save_file({**load_file(sae / WEIGHTS), "threshold": torch.full((D_SAE,), 0.01)}, sae / WEIGHTS)
    cfg = json.loads((sae / CFG).read_text())
    (sae / CFG).write_text(json.dumps({**cfg, "architecture": "jumprelu", "k": None}))
    assert FeatureEncoder(sae, torch.device("cpu")).architecture == "jumprelu"
    damaged(sae, "threshold", what)
    with pytest.raises(TargetError, match="threshold"):
        FeatureEncoder(sae, torch.device("cpu"))


@pytest.mark.parametrize("what", ["NaN", "infinite"])
def test_directions(what: str, sae: Path):
    """They are read without torch, too."""
    damaged(sae, "W_dec", what)
    with pytest.raises(TargetError, match="W_dec is not finite throughout"):
        unit_decoder(sae)


@pytest.mark.parametrize(
    "cfg",
    [
        {"d_in": float("nan")}, {"d_sae": float("inf")}, {"d_sae": 10**30}, {"d_in": -D_IN}, {"d_sae": 1.5},
        {"architecture": []}, {"apply_b_dec_to_input": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_configurations(cfg: dict, sae: Path, tiny, tmp_path: Path):
    found = json.loads((sae / CFG).read_text())
    (sae / CFG).write_text(json.dumps({**found, **cfg}))
    done = build(tmp_path, tiny[0], sae)
    assert done.code == 3, done.stderr
    assert str(sae) in one_line(done)
