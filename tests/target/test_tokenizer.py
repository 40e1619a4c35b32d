"""Tokenizers of Mistral's models that transformers mends on request."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command import quiet
from helpers.tiny import make_tokenizer

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel
from geofilter.target.resolve import resolve
from geofilter.target.tokenizer import NOTE, splits_wrongly

SPLIT = {"type": "Split", "pattern": {"Regex": " ?[^ ]+| +"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def mistral(tiny, folder: Path, *, kind: str = "mistral", version: str | None = "4.46.0", words: int = 100_100) -> Path:
    """A tiny Llama saved as a Mistral of another version, with a large vocabulary."""
    shutil.copytree(tiny[0], folder)
    config = json.loads((folder / "config.json").read_text())
    changed = {"model_type": kind, "architectures": ["MistralForCausalLM"], "sliding_window": None}
    config = {**config, **(changed if kind == "mistral" else {}), "transformers_version": version}
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer().save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"zz{i}": i for i in range(len(vocab), words)}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def pattern(folder: Path) -> str:
    return str(ResidualModel(folder, [0], Loading("cpu", "float32")).tokenizer.backend_tokenizer.pre_tokenizer)


def test_the_mended_pattern_is_used_noted_and_part_of_the_target(tiny, tmp_path: Path, monkeypatch):
    folder = mistral(tiny, tmp_path / "old")
    assert r"\p{Lu}" in pattern(folder) and " ?[^ ]+" not in pattern(folder)
    target = resolve(TargetChoice(str(folder), str(tiny[1])), notify=quiet)
    assert NOTE in target.notes
    # A run that was made before is another target's.
    monkeypatch.setattr("geofilter.target.tokenizer.splits_wrongly", lambda folder: False)
    before = resolve(TargetChoice(str(folder), str(tiny[1])), notify=quiet)
    assert before.fingerprint != target.fingerprint


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, True),
        ({"version": None}, True),
        ({"version": "5.1.0"}, False),
        ({"kind": "llama"}, False),
        ({"words": 32_000}, False),
    ],
)
def test_only_such_tokenizers_are_mended_and_transformers_agrees(tiny, tmp_path: Path, changes: dict, wrong: bool):
    from transformers import AutoTokenizer

    folder = mistral(tiny, tmp_path / "m", **changes)
    assert splits_wrongly(folder) is wrong
    asked = AutoTokenizer.from_pretrained(folder, local_files_only=True, fix_mistral_regex=True)
    assert (r"\p{Lu}" in str(asked.backend_tokenizer.pre_tokenizer)) is wrong
    if not wrong:
        assert " ?[^ ]+" in pattern(folder)
        assert resolve(TargetChoice(str(folder), str(tiny[1])), notify=quiet).notes == (
            f"the SAE was trained on tiny and reads {folder} here; whether that folder holds the same model, its name "
            "does not say",
        )
