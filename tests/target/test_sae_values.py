"""Odd values in an SAE's configuration: one line that says which, in every layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import quiet, scan_one
from helpers.tiny import make_sae
from safetensors.torch import save_file

from geofilter.config import TargetChoice
from geofilter.target.resolve import resolve

NUMBER, WORD = "it must be a whole number above 0", "it must be a word in quotes"


def sparsify(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """The folder and its configuration."""
    folder.mkdir(parents=True)
    save_file({"W_dec": torch.zeros(128, 32)}, folder / "sae.safetensors")
    cfg = {"d_in": 32, "num_latents": 128, "k": 1, **changes}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder, folder / "cfg.json"


def dictionary(folder: Path, **changes: Any) -> tuple[Path, Path]:
    folder.mkdir(parents=True)
    torch.save({"b_dec": torch.zeros(32)}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": 32, "dict_size": 128, "k": 1, "layer": 2, **changes}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder, folder / "config.json"


def saelens(folder: Path, metadata: Any = None, **changes: Any) -> tuple[Path, Path]:
    make_sae(folder)
    cfg = {**json.loads((folder / "cfg.json").read_text()), **changes}
    if isinstance(metadata, dict):
        metadata = {**cfg["metadata"], **metadata}
    (folder / "cfg.json").write_text(json.dumps({**cfg, **({} if metadata is None else {"metadata": metadata})}))
    return folder, folder / "cfg.json"


CASES = [
    (sparsify, {"num_latents": None, "expansion_factor": "x"}, f'expansion_factor is "x"; {NUMBER}'),
    (sparsify, {"num_latents": [1]}, f"num_latents is [1]; {NUMBER}"),
    (sparsify, {"num_latents": 0}, "names no expansion_factor; add it, or get the file again"),
    (sparsify, {"k": 500}, "k is 500, more than the SAE's 128 features; get the folder again"),
    (sparsify, {"k": 0}, f"k is 0; {NUMBER}"),
    (sparsify, {"k": True}, f"k is true; {NUMBER}"),
    (sparsify, {"hook_name": 2}, f"hook_name is 2; {WORD}"),
    (dictionary, {"dict_class": ["x"]}, f'dict_class is ["x"]; {WORD}'),
    (dictionary, {"dict_size": "128"}, f'dict_size is "128"; {NUMBER}'),
    (dictionary, {"activation_dim": None}, "names no activation_dim; add it, or get the file again"),
    (dictionary, {"submodule_name": {}}, f"submodule_name is {{}}; {WORD}"),
    (dictionary, {"k": 129}, "k is 129, more than the SAE's 128 features; get the folder again"),
    (saelens, {"k": "x"}, f'k is "x"; {NUMBER}'),
    (saelens, {"k": None}, "names no k; add it, or get the file again"),
    (saelens, {"k": 500}, "k is 500, more than the SAE's 128 features; get the folder again"),
    (saelens, {"k": 500, "d_sae": None}, "k is 500, more than the SAE's 128 features; get the folder again"),
    (saelens, {"d_in": "32"}, f'd_in is "32"; {NUMBER}'),
    (saelens, {"d_sae": [128]}, f"d_sae is [128]; {NUMBER}"),
    (saelens, {"apply_b_dec_to_input": "no"}, 'apply_b_dec_to_input is "no"; it must be true or false'),
    (saelens, {"metadata": "x"}, 'metadata is "x"; it must be an object'),
    (saelens, {"metadata": {"hook_name": 2}}, f"hook_name is 2; {WORD}"),
    (saelens, {"metadata": {"hook_name": None}}, "names no metadata.hook_name; add the hook the SAE was trained on"),
    (saelens, {"metadata": {"model_name": ["tiny"]}}, f'model_name is ["tiny"]; {WORD}'),
    (saelens, {"metadata": {"model_from_pretrained_kwargs": [1]}},
     "model_from_pretrained_kwargs is [1]; it must be an object"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_odd_values_are_named(case: int, tiny, tmp_path: Path):
    make, changes, text = CASES[case]
    folder, cfg = make(tmp_path / "layers.2", **changes)
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", folder) == (3, f"{cfg}: {text}")


def test_weights_of_other_shapes_than_the_configuration_says(tiny, tmp_path: Path):
    folder, _ = saelens(tmp_path / "sae", d_sae=64)
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", folder) == (
        3,
        f"{folder / 'sae_weights.safetensors'}: W_dec has the shape (128, 32), not (64, 32) as its cfg.json says; get "
        "the folder again",
    )


@pytest.mark.parametrize(
    ("weights", "needed", "library"),
    [("ae.pt", "config.json", "dictionary_learning"), ("sae.safetensors", "cfg.json", "sparsify")],
)
def test_weights_without_a_configuration(weights: str, needed: str, library: str, tiny, tmp_path: Path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / weights).touch()
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", "sae") == (
        3,
        f"sae: has {weights} but no {needed}, in which {library} says how the SAE was trained; get the whole folder",
    )


@pytest.mark.parametrize("make", [saelens, sparsify, dictionary])
@pytest.mark.parametrize("damage", ["{", "[]", "[" * 100_000])
def test_a_damaged_configuration(make: Any, damage: str, tiny, tmp_path: Path):
    folder, cfg = make(tmp_path / "layers.2")
    cfg.write_text(damage)
    code, text = scan_one(tmp_path, "--model", tiny[0], "--sae", folder)
    assert code == 3 and text.startswith(f"{cfg}: ") and text.endswith("; get the file again")
    assert text.count(str(cfg)) == 1


def test_a_file_or_a_folder_above_is_told_from_an_sae(tiny, tmp_path: Path):
    """The message names what to give instead."""
    for name in ("run/trainer_0", "run/trainer_1"):
        dictionary(tmp_path / name)
    for layer in range(9):
        sparsify(tmp_path / "many" / f"layers.{layer}")
    many = ", ".join(f"many/layers.{layer}" for layer in range(8))
    above = "is no SAE but a folder above; give one that lies below:"
    for typed, text in [
        ("run/trainer_0/ae.pt", "is a file; give its folder: --sae run/trainer_0"),
        ("run", f"{above} run/trainer_0, run/trainer_1"),
        ("many", f"{above} {many} and 1 more"),
    ]:
        assert scan_one(tmp_path, "--model", tiny[0], "--sae", typed) == (3, f"--sae {typed}: {text}")
    saelens(tmp_path / "saes" / "size" / "layer_2")
    text = f"--sae saes: {above} saes/size/layer_2"
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", "saes") == (3, text)


def test_a_folder_that_sae_lens_has_to_put_into_plain_form_keeps_its_hook(tiny, tmp_path: Path):
    """By decoder norm, and without the version of sae-lens that wrote it, for which sae-lens drops the metadata."""
    folder, _ = saelens(tmp_path / "sae", rescale_acts_by_decoder_norm=True)
    target = resolve(TargetChoice(str(tiny[0]), str(folder)), notify=quiet)
    assert (str(target.hook), target.sae_model) == ("blocks.2.hook_resid_post", "tiny")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"d_in": "32"}, f'd_in is "32"; {NUMBER}'),
        ({"hook_name": 3}, f"hook_name is 3; {WORD}"),
        ({"hook_name": None}, "names no metadata.hook_name; add the hook the SAE was trained on"),
        ({"model_name": [1]}, f"model_name is [1]; {WORD}"),
    ],
)
def test_odd_values_of_an_old_folder(changes: dict, text: str, tiny, tmp_path: Path):
    folder, cfg = saelens(tmp_path / "sae")
    old = json.loads(cfg.read_text())
    cfg.write_text(json.dumps({**old, **old.pop("metadata"), **changes, "metadata": None}))
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", folder) == (3, f"{cfg}: {text}")
