"""Models that an SAE is trained for: of a GGUF file, nested in a multimodal one, and the embedded one."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command import geofilter
from helpers.gguf_files import random_model, write_gguf
from helpers.nested import nested_folder

from geofilter.files import package_data
from geofilter.rows.shipped import example_file


def test_of_a_gguf_file(train, rows: Path, tmp_path: Path):
    file = write_gguf(tmp_path / "some.gguf", random_model("gemma3"), stored="F32")
    done = train(tmp_path / "sae", model=file)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "sae" / "card.json").read_text())
    assert card["choice"]["model"] == str(file)
    assert {"clean", "spliced", "zero", "recovered"} < set(card["loss"])  # the head was widened too
    assert geofilter("sae", "check", tmp_path / "sae", "--data", rows / "plain.jsonl").returncode == 0
    done = geofilter("doctor", "--model", file, "--sae", tmp_path / "sae")
    assert "ok   pair" in done.stdout, done.stdout


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_of_a_decoder_in_a_multimodal_model(train, tmp_path: Path, kind: str):
    chat_rows = package_data("contrast", "background.jsonl")
    model = nested_folder(tmp_path / "model", kind, 4)
    done = geofilter(
        "sae", "train", "--model", model, "--data", chat_rows, "--out", tmp_path / "sae", "--width", "256", "--k", "8",
        "--batch", "256", "--tokens", "60k",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "sae" / "card.json").read_text())
    assert (card["d_in"], card["layer"], card["pair"]["ok"]) == (32, 1, True)


def test_a_model_without_its_head_has_no_loss_that_could_be_measured(train, tiny, tmp_path: Path):
    from transformers import AutoModel

    folder = shutil.copytree(tiny[0], tmp_path / "headless")
    AutoModel.from_pretrained(tiny[0]).save_pretrained(folder)
    done = train(tmp_path / "sae", model=folder)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "sae" / "card.json").read_text())
    assert "weights are missing" in card["loss"]["not_measured"]
    assert "loss         not measured" in done.stdout


@pytest.mark.embedded
def test_a_little_training_of_the_embedded_model_explains_its_own_layer_best(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("geofilter.encode.pair.PAIR_ROWS", 10)  # as on all of them for the SAE that is shipped
    done = geofilter(
        "sae", "train", "--model", "smollm2-135m", "--data", example_file(), "--out", tmp_path / "sae",
        "--width", "256", "--k", "16", "--batch", "64", "--tokens", "2k", "--weights", "float16", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert (card["layer"], card["layers"]) == (14, 30)
    assert card["pair"]["ok"]
    assert card["held_out"]["explained_variance"] > 0.1
    assert card["loss"]["clean"] < card["loss"]["spliced"] < card["loss"]["zero"]
