"""Models found without an SAE."""

from pathlib import Path

import pytest
from helpers.command import quiet

from geofilter.errors import InputError, TargetError
from geofilter.target.alone import find_model


def test_a_folder(tiny, monkeypatch):
    monkeypatch.chdir(tiny[0].parent)
    found = find_model("model", offline=True, notify=quiet)
    assert (found.name, found.model, found.layers) == ("model", "model", 4)
    assert found.choice.model == str(tiny[0].resolve())
    folder, fingerprint = found.weights(1, offline=True, notify=quiet)
    assert folder == found.whole(quiet)
    again = find_model(str(tiny[0]), offline=True, notify=quiet).weights(3, offline=True, notify=quiet)
    assert fingerprint == again[1]


def test_a_repository_and_a_named_target_of_it(hub):
    name = "google/gemma-2-2b"
    found = find_model(name, offline=True, notify=quiet)
    assert (found.name, found.model) == (name, name)
    assert found.choice.revision == found.place.commit
    named = find_model("gemma-2-2b", offline=True, notify=quiet)
    assert (named.name, named.model) == ("gemma-2-2b", name)
    layer = found.layers // 2 - 1
    one, two = (each.weights(layer, offline=True, notify=quiet) for each in (found, named))
    assert one == two


def test_what_is_no_model(tmp_path: Path, tiny):
    for model, said in (
        (None, "no model chosen"),
        ("nothing", "neither a named target"),
        (str(tmp_path / "a.gguf"), "no such file"),
    ):
        with pytest.raises(TargetError, match=said):
            find_model(model, offline=True, notify=quiet)
    with pytest.raises(InputError, match="--revision main"):
        find_model(str(tiny[0]), "main", offline=True, notify=quiet)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(TargetError, match="an adapter without its model"):
        find_model(str(tmp_path), offline=True, notify=quiet)
