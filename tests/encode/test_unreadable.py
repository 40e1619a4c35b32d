"""What a model cannot read: tokens without an embedding, values that are not finite; and half-precision SAEs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.command import chat, geofilter, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

pytestmark = pytest.mark.usefixtures("short_background")

TOKENS = 400
"""of the tiny model's embedding"""


@pytest.fixture(scope="session")
def grown(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has got tokens that the model was not resized for, its padding among them."""
    folder = tmp_path_factory.mktemp("grown") / "model"
    shutil.copytree(tiny[0], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<x{i}>" for i in range(TOKENS - len(tokenizer))] + ["<tool>"])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    assert tokenizer.convert_tokens_to_ids("<tool>") == TOKENS and tokenizer.pad_token_id > TOKENS
    tokenizer.save_pretrained(folder)
    return folder


def seeds(tmp_path: Path, **changed: str) -> list[object]:
    for side, text in (("bad", "you fool, {} times no"), ("good", "the answer is that {} works")):
        found = [chat(f"question {i}?", text.format(i)) for i in range(12)]
        if side in changed:
            found[4] = chat("question 4?", changed[side])
        write_rows(tmp_path / f"{side}.jsonl", found)
    return ["bank", "build", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "bank", "--no-prior"]


REASON = (
    f"token {TOKENS} ('<tool>') is outside of the model's embedding of {TOKENS} rows; take the tokenizer that belongs "
    "to the model, or a model that was resized for it"
)


def test_a_row_with_a_token_outside_of_the_embedding_is_set_aside(tiny, grown: Path, tmp_path: Path):
    target = ["--model", grown, "--sae", tiny[1]]
    assert geofilter(*seeds(tmp_path), *target, cwd=tmp_path).returncode == 0
    write_rows(tmp_path / "d.jsonl", [chat("q", f"the answer is {'<tool>' * (i == 2)} {i}") for i in range(6)])
    scan = ["scan", "d.jsonl", *target, "--bank", "bank", "--run", "run"]
    done = geofilter(*scan, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert (found["line"], found["error"]) == (3, REASON)
    assert len((tmp_path / "run" / "scores.jsonl").read_text().splitlines()) == 5
    done = geofilter("explain", "run", "--row", 3, cwd=tmp_path)
    assert (done.returncode, REASON in done.stderr) == (2, True)
    done = geofilter(*scan[:-1], "other", "--on-error", "fail", cwd=tmp_path)
    assert (done.returncode, f"d.jsonl, line 3: {REASON}" in done.stderr) == (2, True)


def test_a_bank_names_the_row_with_a_token_outside_of_the_embedding(tiny, grown: Path, tmp_path: Path):
    done = geofilter(*seeds(tmp_path, good="say <tool>"), "--model", grown, "--sae", tiny[1], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"geofilter: error: good.jsonl, line 5: {REASON}"


def test_doctor_says_that_the_template_s_tokens_have_no_embedding(tiny, grown: Path, tmp_path: Path):
    shutil.copytree(grown, tmp_path / "model")
    template = (tmp_path / "model" / "chat_template.jinja").read_text()
    (tmp_path / "model" / "chat_template.jinja").write_text("<tool>" + template)
    done = geofilter("doctor", "--model", tmp_path / "model", "--sae", tiny[1])
    assert done.returncode == 3
    assert f"FAIL target: model: cannot read ordinary chat: {REASON}" in done.stdout


@pytest.mark.parametrize("side", ["bad", "good"])
def test_a_bank_is_not_built_of_activations_that_are_not_finite(tiny, tmp_path: Path, side: str):
    """As a scan refuses them: one row's infinite values would decide every weight."""
    shutil.copytree(tiny[0], tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    token = AutoTokenizer.from_pretrained(tiny[0])("@", add_special_tokens=False).input_ids[0]
    weights["model.embed_tokens.weight"][token] = torch.inf
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    build = [*seeds(tmp_path, **{side: "write to a@b"}), "--model", tmp_path / "model", "--sae", tiny[1]]
    done = geofilter(*build, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"geofilter: error: {side}.jsonl, line 5: activations are not finite; use --dtype float32"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bank_and_a_scan_by_an_sae_in_half_precision(tiny, tmp_path: Path, dtype: torch.dtype):
    shutil.copytree(tiny[1], tmp_path / "sae")
    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    save_file({k: v.to(dtype) for k, v in weights.items()}, tmp_path / "sae" / "sae_weights.safetensors")
    target = ["--model", tiny[0], "--sae", tmp_path / "sae"]
    done = geofilter(*seeds(tmp_path), *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    write_rows(tmp_path / "d.jsonl", [chat("q", f"the answer is {i}") for i in range(5)])
    done = geofilter("scan", "d.jsonl", *target, "--bank", "bank", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert geofilter("explain", "run", "--row", 1, cwd=tmp_path).returncode == 0
