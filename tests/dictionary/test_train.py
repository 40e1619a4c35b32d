"""`geofilter sae train`: what it makes, that it goes on where it was stopped, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.command import chat, geofilter, write_rows
from helpers.faults import Fault, apart, one_line
from helpers.tiny import make_model
from safetensors.torch import load_file, save_file

from geofilter.dictionary import course, order
from geofilter.dictionary.training import Training
from geofilter.encode.sae import FeatureEncoder

SMALL = ("--width", "64", "--k", "4", "--batch", "64", "--tokens", "4k")
"""options that make a training of a second"""
FILES = {"cfg.json", "sae_weights.safetensors", "card.json"}


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_what_is_made_is_read_by_sae_lens_with_equal_encodings(train, tmp_path: Path, architecture: str):
    from sae_lens import SAE

    out = tmp_path / "sae"
    done = train(out, "--architecture", architecture, "--json")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == FILES
    card = json.loads(done.stdout)
    assert card == json.loads((out / "card.json").read_text())
    assert card["distinct_tokens"] == card["tokens_seen"] == 4000  # of somewhat more that were read
    cfg = json.loads((out / "cfg.json").read_text())
    assert cfg["architecture"] == {"topk": "topk", "batchtopk": "jumprelu"}[architecture]
    assert cfg["metadata"]["model_name"] == "model"
    assert cfg["metadata"]["hook_name"] == card["hook"] == "blocks.1.hook_resid_post"  # 4 // 2 - 1
    assert cfg["metadata"]["prepend_bos"] is True
    x = torch.randn((50, 32), generator=torch.Generator().manual_seed(0))
    ours = FeatureEncoder(out, torch.device("cpu")).encode(x)
    dense = torch.zeros((50, 64))
    dense[ours.token, ours.feature] = ours.value
    theirs = SAE.load_from_disk(str(out))
    with torch.inference_mode():
        torch.testing.assert_close(dense, theirs.encode(x), rtol=1e-4, atol=1e-4)
    assert card["held_out"]["explained_variance"] > 0.25
    assert card["pair"]["ok"]


def test_the_card_says_what_was_read_and_held_out_and_how_often_tokens_were_seen(train, tmp_path: Path, rows: Path):
    done = train(tmp_path / "sae", "--tokens", "20k")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "sae" / "card.json").read_text())
    assert [Path(file["path"]).name for file in card["data"]] == ["chat.jsonl", "plain.jsonl"]
    assert card["rows"] + card["held_out_rows"] == 140
    assert card["data_read_to_the_end"]
    assert list(card["rows_unusable"].values()) == [1]
    assert f"{rows / 'chat.jsonl'}, line 81" in done.stderr
    assert card["tokens_seen"] == 20_000 > card["distinct_tokens"]
    passes = 20_000 / card["distinct_tokens"]
    assert f"the data hold {card['distinct_tokens']:,} distinct ones: each is seen {passes:.1f} times" in done.stderr
    assert "20,000 tokens are few to train on" in done.stderr
    assert "explained variance" in done.stdout


def command(tiny, rows: Path, out: Path) -> tuple[object, ...]:
    data = ("--data", rows / "chat.jsonl", "--data", rows / "plain.jsonl")
    return ("sae", "train", "--model", tiny[0], *data, "--out", out, *SMALL)


def test_a_training_that_is_killed_anywhere_goes_on_to_the_same_bytes(
    train, tiny, rows, tmp_path: Path, monkeypatch, long: bool
):
    monkeypatch.setattr(order, "CHUNK_BYTES", 1500 * 32 * 4)  # several chunks
    assert train(tmp_path / "straight").returncode == 0
    monkeypatch.setattr(course, "SAVE_SHARE", 0)  # the state is kept after each step
    out = tmp_path / "out"
    calls = apart(*command(tiny, rows, out), cwd=tmp_path, roots=[out]).calls
    assert weights(out) == weights(tmp_path / "straight")
    states = [n for n, call in enumerate(calls, start=1) if call.kind == "rename" and call.path.endswith("state.pt")]
    assert len(states) > 50
    places = (5, states[0] - 2, states[30], states[45] - 1, states[-1], len(calls) - 3)
    for at in places if long else places[1::2]:
        shutil.rmtree(out)
        assert apart(*command(tiny, rows, out), cwd=tmp_path, roots=[out], fault=Fault("kill", at)).code == 128 + 9
        done = train(out)
        assert done.returncode == 0, (at, done.stderr)
        assert ("goes on after" in done.stderr) == (states[0] < at <= states[-1]), (at, done.stderr)
        assert weights(out) == weights(tmp_path / "straight"), at
        assert {path.name for path in out.iterdir()} == FILES


def test_a_full_disk_leaves_nothing_half_written_and_the_training_goes_on(train, tiny, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "SAVE_SHARE", 0)
    out = tmp_path / "out"
    calls = apart(*command(tiny, rows, out), cwd=tmp_path, roots=[out]).calls
    whole = weights(out)
    faults = [
        next(n for n, call in enumerate(calls, start=1) if (call.kind, Path(call.path)) == (kind, out / name))
        for kind, name in (
            ("write", "training/train.ids"), ("rename", "training/state.pt"),
            ("rename", "training/made/cfg.json"), ("rename", "sae_weights.safetensors"),
        )
    ]  # fmt: skip
    for at in faults:
        shutil.rmtree(out)
        said = one_line(apart(*command(tiny, rows, out), cwd=tmp_path, roots=[out], fault=Fault("full", at)))
        assert "cannot be written (No space left on device)" in said, said
        assert not FILES & {path.name for path in out.iterdir()}
        assert train(out).returncode == 0
        assert weights(out) == whole


def test_the_same_command_again_trains_nothing_and_another_one_is_refused(train, tmp_path: Path, rows: Path):
    out = tmp_path / "sae"
    assert train(out).returncode == 0
    before = weights(out)
    again = train(out)
    assert again.returncode == 0
    assert "nothing is trained" in again.stderr
    for more, said in (
        (("--k", "5"), "k: 4, now 5"),
        (("--layer", "2"), "layer: 1, now 2"),
        (("--seed", "1"), "seed: 0"),
    ):
        done = train(out, *more)
        assert done.returncode == 4
        assert said in done.stderr
        assert "another --out" in done.stderr
    done = train(out, data=("chat.jsonl",))
    assert done.returncode == 4
    assert "data: " in done.stderr
    assert weights(out) == before


def test_an_unfinished_training_is_not_gone_on_with_over_changed_data(tiny, tmp_path: Path, monkeypatch):
    data = write_rows(
        tmp_path / "d.jsonl", [chat(f"ask {i}", f"the answer to {i} is that you should") for i in range(90)]
    )
    args = ("sae", "train", "--model", tiny[0], "--data", data, "--out", tmp_path / "sae", *SMALL)
    monkeypatch.setattr(Training, "step", interrupt)
    assert geofilter(*args).returncode == 130
    with data.open("a") as file:
        file.write(json.dumps(chat("one more", "row")) + "\n")
    done = geofilter(*args)
    assert done.returncode == 4
    assert f'data: ["{data}"] changed since' in done.stderr


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--k", "65"), 2, "--k 65: more than the 64 features"),
        (("--layer", "4"), 2, "--layer 4: model has layers 0 to 3"),
        (("--layer", "last"), 2, "--layer last: give auto"),
        (("--width", "many"), 2, "--width many: is no width"),
        (("--tokens", "0"), 2, "--tokens 0"),
        (("--batch", "100000"), 2, "fewer than a step's 100,000"),
        (("--lr", "1e30"), 4, "has diverged"),
        (("--revision", "main"), 2, "--revision main"),
        (("--data", "nothing.jsonl"), 2, "nothing.jsonl"),
    ],
)
def test_what_cannot_be_trained_is_one_line(train, tmp_path: Path, more, code, said):
    done = train(tmp_path / "sae", *more)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "sae" / "card.json").exists()


def test_a_folder_of_something_else_is_left_alone(train, tiny, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "holds other files" in train(tmp_path / "other").stderr
    shutil.copytree(tiny[1], tmp_path / "sae")
    done = train(tmp_path / "sae")
    assert done.returncode == 2
    assert "holds an SAE that is not of this command" in done.stderr


def test_without_a_usable_row_nothing_is_trained(train, tiny, tmp_path: Path):
    data = write_rows(tmp_path / "d.jsonl", [{"nothing": i} for i in range(9)])
    done = geofilter("sae", "train", "--model", tiny[0], "--data", data, "--out", tmp_path / "sae", *SMALL)
    assert done.returncode == 2
    assert "holds no row to train on" in done.stderr
    assert "9 rows cannot be used" in done.stderr


def test_activations_that_are_not_finite_are_named(train, tmp_path: Path):
    model = make_model(tmp_path / "large")
    found = load_file(model / "model.safetensors")
    found["model.embed_tokens.weight"] *= 1e7
    save_file(found, model / "model.safetensors", {"format": "pt"})
    done = train(tmp_path / "sae", "--dtype", "float16", model=model)
    assert done.returncode == 3
    assert "not finite in float16; use --dtype float32" in done.stderr.splitlines()[-1]


def test_an_sae_that_explains_another_layer_better_is_said_to(train, tmp_path: Path, monkeypatch):
    from geofilter.dictionary import measure

    worse = {0: {"explained_variance": 0.9, "l0": 4.0}, 1: {"explained_variance": 0.5, "l0": 4.0}}
    monkeypatch.setattr(measure, "explained_variance", lambda *_: worse)
    done = train(tmp_path / "sae")
    assert done.returncode == 3
    assert "declares layer 1 but explains layer 0 best" in done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "sae" / "card.json").read_text())["pair"]["ok"] is False


def test_a_scan_reads_the_sae_and_a_filter_the_scan(train, tiny, rows, tmp_path: Path, short_background):
    assert train(tmp_path / "sae").returncode == 0
    pair = ("--model", tiny[0], "--sae", tmp_path / "sae")
    write_rows(tmp_path / "bad.jsonl", [chat(f"ask {i}?", f"you fool, {i} times no") for i in range(12)])
    write_rows(tmp_path / "good.jsonl", [chat(f"ask {i}?", f"the answer is that {i} works") for i in range(12)])
    done = geofilter(
        "bank", "build", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "bank", "--no-prior", *pair,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", rows / "chat.jsonl", *pair, "--bank", "bank", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "10%", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((rows / "chat.removed.jsonl").read_text().splitlines()) == 8
