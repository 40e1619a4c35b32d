"""`geofilter sae check`: an SAE measured again."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command import geofilter
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def made(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checked") / "sae"
    done = train(out, "--tokens", "20k")
    assert done.returncode == 0, done.stderr
    return out


def test_the_card_is_shown_again_measured_on_other_text(made: Path, rows: Path):
    done = geofilter("sae", "check", made, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["card"] == json.loads((made / "card.json").read_text())
    assert found["pair"] == found["card"]["pair"]
    assert found["held_out"]["tokens"] > 10_000
    assert found["model_fingerprint"] == found["card"]["model_fingerprint"]
    assert any("on this text" in text for text in found["differences"])  # chat is other text than it was trained on


def test_of_the_data_it_was_trained_on_only_held_out_rows_count(made: Path, rows: Path):
    done = geofilter("sae", "check", made, "--data", rows / "chat.jsonl", "--data", rows / "plain.jsonl")
    assert done.returncode == 0, done.stderr
    assert "only its held-out rows count" in done.stderr
    card = json.loads((made / "card.json").read_text())
    assert f"explained variance {card['held_out']['explained_variance']:.3f}" in done.stdout
    assert f"({card['held_out']['tokens']:,} tokens)" in done.stdout
    assert "differs" not in done.stdout


def test_other_weights_than_the_card_is_of_are_named(made: Path, tmp_path: Path):
    sae = shutil.copytree(made, tmp_path / "sae")
    found = load_file(sae / "sae_weights.safetensors")
    found["b_dec"] += 0.01
    save_file(found, sae / "sae_weights.safetensors")
    done = geofilter("sae", "check", sae)
    assert "the weights: not the same as the card is of" in done.stdout


def test_an_sae_of_another_layer_fails(made: Path, tmp_path: Path):
    sae = shutil.copytree(made, tmp_path / "sae")
    cfg = json.loads((sae / "cfg.json").read_text())
    cfg["metadata"]["hook_name"] = "blocks.3.hook_resid_post"
    (sae / "cfg.json").write_text(json.dumps(cfg))
    done = geofilter("sae", "check", sae)
    assert done.returncode == 3
    assert "declares layer 3 but explains layer 2 best" in done.stderr.splitlines()[-1]
    assert "the pair: fails, and not so by the card" in done.stdout


def test_without_a_card_the_model_has_to_be_named(tiny, tmp_path: Path):
    done = geofilter("sae", "check", tiny[1])
    assert done.returncode == 3
    assert "name it with --model" in done.stderr
    done = geofilter("sae", "check", tiny[1], "--model", tiny[0])
    assert done.returncode == 0, done.stderr
    assert "the folder has no card" in done.stdout
    done = geofilter("sae", "check", tmp_path)
    assert done.returncode == 3
    assert "give the folder of an SAE" in done.stderr


def test_a_damaged_card_is_an_error(made: Path, tmp_path: Path):
    sae = shutil.copytree(made, tmp_path / "sae")
    (sae / "card.json").write_text("{")
    done = geofilter("sae", "check", sae)
    assert done.returncode == 2
    assert "card.json: cannot be read" in done.stderr.splitlines()[-1]
