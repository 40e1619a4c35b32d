"""What an SAE is trained on and in which order, without a training."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import chat, quiet, write_rows
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from geofilter.config import Loading
from geofilter.dictionary.card import too_few
from geofilter.dictionary.config import SaeConfig, size, width
from geofilter.dictionary.corpus import is_held_out, make_corpus, open_corpus, rows_in_turn
from geofilter.dictionary.measure import loss_recovered
from geofilter.dictionary.order import chunks
from geofilter.encode.model import ResidualModel, pretrained
from geofilter.encode.tokens import encode_rows
from geofilter.errors import InputError
from geofilter.rows.reading import Reading
from geofilter.rows.records import read_rows
from geofilter.rows.shipped import background_rows
from geofilter.target.alone import find_model
from geofilter.target.hooks import Hook


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("16k", 16_384),
        ("65k", 65_536),
        ("262k", 262_144),
        ("1m", 1 << 20),
        ("12k", 12_288),
        ("5000", 5000),
        ("4K", 4096),
    ],
)
def test_a_width_is_what_releases_mean_by_it(text: str, features: int):
    assert width(text) == features


@pytest.mark.parametrize("text", ["", "k", "0", "1", "-4k", "1.5k", "99m"])
def test_what_is_no_width_is_refused(text: str):
    with pytest.raises(InputError, match="is no width"):
        width(text)


def test_numbers_of_tokens():
    found = [size(text, "--tokens") for text in ("50M", "400k", "1.5b", "12,000")]
    assert found == [50_000_000, 400_000, 1_500_000_000, 12_000]
    with pytest.raises(InputError, match="--tokens many"):
        size("many", "--tokens")


def test_the_default_batch_and_rate_follow_the_size():
    assert SaeConfig(width="4k").learning_rate == 1e-3 == SaeConfig(width="1k").learning_rate
    assert SaeConfig(width="16k").learning_rate == pytest.approx(5e-4)
    assert SaeConfig().batch_for(1_000_000) == 1024
    assert SaeConfig().batch_for(50_000_000) == 4096


def test_few_tokens_are_said_to_be_few():
    assert too_few(400_000, 100_000) is None
    assert "give more --tokens and --data" in str(too_few(5000, 1000))
    assert str(too_few(200_000, 200_000)).endswith("give more --tokens")
    assert "1,000 distinct tokens are few" in str(too_few(1 << 30, 1000))


COUNTS = np.array([5, 0, 40, 12, 30, 8, 25, 33] * 20)


@pytest.mark.parametrize("asked", [100, 3000, 9000])
def test_every_window_is_in_a_pass_once_and_passes_are_in_another_order(asked: int):
    there = int(COUNTS.sum())
    found = list(chunks(COUNTS, asked, 700, 64, seed=3))
    assert sum(part.take for part in found) == asked
    assert [part.number for part in found] == list(range(len(found)))
    assert all(part.tokens <= 700 + COUNTS.max() for part in found)
    seen = Counter(int(n) for part in found for n in part.windows if COUNTS[n])
    passes = asked / there
    assert set(seen.values()) <= {int(passes), int(passes) + 1}
    if passes > 2:
        assert found[0].windows.tolist() != found[len(found) // 2].windows.tolist()
    again = list(chunks(COUNTS, asked, 700, 64, seed=3))
    assert all((a.windows == b.windows).all() and a.steps == b.steps for a, b in zip(found, again, strict=True))


def test_data_that_fit_into_a_chunk_are_read_once():
    there = int(COUNTS.sum())
    found = list(chunks(COUNTS, round(2.5 * there), 1 << 20, 64, seed=0))
    assert [part.take for part in found] == [there, there, there // 2]
    assert all(part.same and part.windows.tolist() == found[0].windows.tolist() for part in found)


@pytest.fixture(scope="module")
def model(tiny) -> ResidualModel:
    return ResidualModel(tiny[0], [1], Loading("cpu", "float32"))


def test_held_out_rows_are_told_by_their_hash_and_are_in_no_other_part(model, rows: Path, tmp_path: Path):
    paths = [rows / "chat.jsonl", rows / "plain.jsonl"]
    made = make_corpus(rows_in_turn(paths, Reading()), model, tmp_path, 1 << 20, 1024, "keep")
    usable = [row for path in paths for row in read_rows(path) if hasattr(row, "sha256")]
    held = [row for row in usable if is_held_out(row.sha256)]
    assert 0 < len(held) < 20
    coded = {row.sha256: encode_rows([row], model.tokenizer, 1024, besides=True)[0].windows[0] for row in usable}
    parts = {
        name: Counter(part.window(n).ids for n in range(len(part)))
        for name, part in (("train", made.train), ("held", made.held_out))
    }
    assert parts["held"] == Counter(coded[row.sha256].ids for row in held)
    assert parts["train"] == Counter(coded[row.sha256].ids for row in usable if row not in held)
    assert made.read.tokens == made.train.counts.sum()
    assert made.read.whole
    again = open_corpus(tmp_path)
    assert again is not None
    assert again.read == made.read
    (tmp_path / "train.ids").write_bytes(b"cut off")
    assert open_corpus(tmp_path) is None


def test_files_are_read_in_turn_and_no_further_than_is_wanted(model, tmp_path: Path):
    write_rows(tmp_path / "a.jsonl", [{"text": f"the answer {i}"} for i in range(900)])
    write_rows(tmp_path / "b.jsonl", [{"text": f"the doctor {i}"} for i in range(900)])
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    made = make_corpus(rows_in_turn(paths, Reading()), model, tmp_path, 500, 1024, "keep")
    assert 500 <= made.read.tokens < 3000
    assert not made.read.whole
    texts = [model.tokenizer.decode(made.train.window(n).ids) for n in range(len(made.train))]
    assert any("doctor" in text for text in texts)


def test_what_users_say_is_trained_on_too_and_the_template_is_not(model, tmp_path: Path):
    path = write_rows(tmp_path / "d.jsonl", [chat("the doctor", "the answer")])
    (row,) = read_rows(path)
    (found,) = encode_rows([row], model.tokenizer, 1024, besides=True)
    marked = [i for i, keep in zip(found.ids, found.mask, strict=True) if keep]
    assert model.tokenizer.decode(marked) == "the doctorthe answer"
    (plain,) = encode_rows([row], model.tokenizer, 1024)
    assert model.tokenizer.decode([i for i, keep in zip(plain.ids, plain.mask, strict=True) if keep]) == "the answer"


def identity(path: Path, scale: float = 1) -> Path:
    """An SAE that gives back what it reads, times a number."""
    eye = torch.eye(32)
    weights = {"W_enc": torch.cat([eye, -eye], 1), "W_dec": scale * torch.cat([eye, -eye]), "b_dec": torch.zeros(32)}
    path.mkdir()
    save_file({**weights, "b_enc": torch.zeros(64)}, path / "sae_weights.safetensors")
    cfg = {"architecture": "standard", "d_in": 32, "d_sae": 64, "metadata": {"hook_name": "blocks.1.hook_resid_post"}}
    (path / "cfg.json").write_text(json.dumps(cfg))
    return path


def test_the_loss_is_of_what_is_put_in_the_place_of_the_output(tiny, model, tmp_path: Path):
    found = find_model(str(tiny[0]), offline=True, notify=quiet)
    made = make_corpus(iter(background_rows()[:10]), model, tmp_path, 1 << 20, 256, "keep")
    hook, loading = Hook(1, "hook_resid_post"), Loading("cpu", "float32")
    whole = loss_recovered(found, hook, identity(tmp_path / "same"), made.train, loading, quiet)
    nothing = loss_recovered(found, hook, identity(tmp_path / "none", 0), made.train, loading, quiet)
    plain = pretrained(AutoModelForCausalLM, tiny[0], loading)
    sums = torch.zeros(2)
    for n in range(len(made.train)):
        window = made.train.window(n)
        ids, mask = torch.tensor(window.ids), torch.tensor(window.mask)
        with torch.inference_mode():
            logits = plain(ids[None]).logits[0]
        each = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")[mask[1:]]
        sums += torch.tensor([float(each.sum()), len(each)])
    assert whole["tokens"] == nothing["tokens"] == sums[1]
    assert whole["clean"] == pytest.approx(float(sums[0] / sums[1]), abs=1e-3)
    assert whole["spliced"] == pytest.approx(whole["clean"], abs=1e-3)
    assert nothing["spliced"] == pytest.approx(nothing["zero"], abs=1e-3)
    assert whole["recovered"] == pytest.approx(1, abs=0.01)
    assert nothing["recovered"] == pytest.approx(0, abs=0.01)
