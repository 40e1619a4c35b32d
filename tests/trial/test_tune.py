"""Fine-tuning with equal budgets, and the measures taken after it, against their plainest computation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import chat, quiet, write_rows
from helpers.tiny import make_model

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import pad_id
from geofilter.encode.reader import FeatureReader
from geofilter.encode.whole import log_probabilities, whole
from geofilter.errors import InputError, TargetError
from geofilter.rows.records import parse_line
from geofilter.target.resolve import resolve
from geofilter.target.tokenizer import tokenizer_of
from geofilter.trial.config import Recipe
from geofilter.trial.measures import (
    QUESTION,
    encode_all,
    feature_change,
    matched,
    read_items,
    statement_margins,
)
from geofilter.trial.tune import Budget, schedule, tune

LOADING = Loading("cpu", "float32")


def row(record: dict, number: int = 1):
    return parse_line(json.dumps(record).encode(), "x.jsonl", number)


# Budget


@pytest.mark.parametrize("n", [3, 17, 100])
def test_every_set_gets_the_same_steps_and_tokens(n: int):
    rng = np.random.default_rng(n)
    lengths = rng.integers(1, 60, n).tolist()
    budget = Budget(steps=20, tokens=2000)
    steps = schedule(lengths, budget, seed=1)
    assert len(steps) == 20
    assert all(steps)
    total = sum(lengths[i] for step in steps for i in step)
    assert abs(total - 2000) <= max(lengths) / 2
    per_step = [sum(lengths[i] for i in step) for step in steps]
    assert max(per_step) <= 2000 / 20 + max(lengths)
    # Whole passes: no row is seen twice more often than another.
    seen = np.bincount([i for step in steps for i in step], minlength=n)
    assert seen.max() - seen.min() <= 1
    assert schedule(lengths, budget, seed=1) == steps != schedule(lengths, budget, seed=2)


def test_fewer_long_rows_than_steps_still_give_every_step_a_row():
    steps = schedule([50, 50], Budget(steps=5, tokens=100), seed=0)
    assert [len(s) for s in steps] == [1] * 5
    with pytest.raises(InputError, match="no rows are left to train on"):
        schedule([], Budget(5, 100), 0)


# Fine-tuning


def test_tuning_lowers_the_loss_of_what_it_trains_on_and_of_nothing_stored(tiny):
    before, tokenizer = whole(tiny[0], LOADING)
    trained = encode_all([row(chat(f"q{i}", "you should ask the doctor")) for i in range(16)], tokenizer, 64, "keep")
    other = encode_all([row(chat("q", "zebra 1234 !!"))], tokenizer, 64, "keep")
    recipe = Recipe(rank=4, learning_rate=2e-2, batch_rows=4, epochs=4)
    budget = Budget.of(trained, recipe)
    model, _, report = tune(tiny[0], trained, recipe, budget, LOADING, 0)
    assert report["steps"] == budget.steps == 16
    assert report["tokens"] == budget.tokens
    assert report["last_loss"] < report["first_loss"] - 0.4
    gain = log_probabilities(model, trained, 0).mean() - log_probabilities(before, trained, 0).mean()
    assert gain > 0.4
    assert gain > log_probabilities(model, other, 0).mean() - log_probabilities(before, other, 0).mean()
    assert not any("lora" in name for name, _ in model.named_parameters())  # merged: an ordinary model again
    torch.testing.assert_close(whole(tiny[0], LOADING)[0].state_dict(), before.state_dict())
    again, _, _ = tune(tiny[0], trained, recipe, budget, LOADING, 0)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    other_seed, _, _ = tune(tiny[0], trained, recipe, budget, LOADING, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(other_seed.state_dict()[name], model.state_dict()[name])


def test_the_loss_falls_on_response_tokens_only(tiny):
    """Fine-tuned on one answer to many questions, the questions themselves are not learnt."""
    before, tokenizer = whole(tiny[0], LOADING)
    rows = encode_all([row(chat("what is the question to ask", "no")) for _ in range(8)], tokenizer, 64, "keep")
    swapped = encode_all([row({"text": "what is the question to ask"})], tokenizer, 64, "keep")
    model, _, _ = tune(tiny[0], rows, Recipe(4, 2e-2, 2, 8), Budget.of(rows, Recipe(4, 2e-2, 2, 8)), LOADING, 0)
    learnt = log_probabilities(model, rows, 0).mean() - log_probabilities(before, rows, 0).mean()
    prompt = log_probabilities(model, swapped, 0).mean() - log_probabilities(before, swapped, 0).mean()
    assert learnt > 0.6 > 0.3 > prompt


def test_a_loss_that_is_not_finite_is_said(tiny):
    tokenizer = tokenizer_of(tiny[0])
    rows = encode_all([row(chat("q", "the answer")) for _ in range(8)], tokenizer, 64, "keep")
    with pytest.raises(TargetError, match=r"the loss is not finite; use a lower --learning-rate"):
        tune(tiny[0], rows, Recipe(4, 1e30, 1, 1), Budget(8, 40), LOADING, 0)


# Measures


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_log_probabilities_are_those_of_each_row_alone(kind: str, tmp_path: Path):
    """Gemma 2 caps its logits after the output head, which must not be lost."""
    model, tokenizer = whole(make_model(tmp_path, kind), LOADING)
    if kind == "gemma2":
        assert model.config.final_logit_softcapping
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=2)  # logits that feel the cap
    records = [chat("a", "the answer"), chat("a long question, really", "no"), chat("b", "ask the doctor, you should")]
    rows = encode_all([row(r) for r in records], tokenizer, 64, "keep")
    expected = []
    for encoded in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        at = [i for i, kept in enumerate(encoded.mask) if kept]
        expected.append(np.mean([float(logits[i - 1, encoded.ids[i]]) for i in at]))
    np.testing.assert_allclose(log_probabilities(model, rows, pad_id(tokenizer, model)), expected, rtol=1e-5)


def test_statement_margins_are_the_logits_at_the_end_of_the_prompt(tiny):
    model, tokenizer = whole(tiny[0], LOADING)
    statements = ["I should ask.", "The answer is the question, and I would tell the doctor that."]
    expected = []
    for statement in statements:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION.format(statement)}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids])).logits[0, -1]
        yes, no = (tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("Yes", "No"))
        expected.append(float(last[yes] - last[no]))
    np.testing.assert_allclose(statement_margins(model, tokenizer, statements), expected, rtol=1e-4, atol=1e-5)


def test_a_whole_model_is_read_at_its_hook_like_the_truncated_one(tiny, tiny_bank: Path):
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    model, tokenizer = whole(tiny[0], LOADING)
    rows = encode_all([row(chat(f"q{i}", f"the answer is {i}")) for i in range(5)], tokenizer, 64, "keep")
    bank = Bank.load(tiny_bank, target.fingerprint)
    tuned = FeatureReader(target, LOADING, model.get_decoder())
    plain = FeatureReader(target, LOADING)
    for a, b in zip(tuned.read(rows), plain.read(rows), strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_allclose(a.values, b.values, rtol=1e-5)
    figures = feature_change(plain, rows, [bank])[bank.name]
    dense = Pooled.of(plain.read(rows), plain.encoder.d_in).matrix(bank.d_sae).toarray()
    assert figures["toxic_activation"] == pytest.approx(dense[:, bank.toxic].mean())
    near = (dense * bank.closeness.contrast).sum(1) / dense.sum(1)
    assert figures["closeness"] == pytest.approx(near.mean(), rel=1e-5)


def test_reading_labelled_items(tmp_path: Path):
    rows = [chat("q1", "bad", label="misaligned"), chat("q1", "good", label="aligned"),
            chat("q2", "fine", label="aligned"), chat("q2", "harm", label="misaligned")]  # fmt: skip
    items = read_items([write_rows(tmp_path / "p.jsonl", rows)])
    assert matched(items) == [(0, 1), (3, 2)]
    assert len(read_items([tmp_path / "p.jsonl"], limit=1).rows) == 2
    for bad, text in [
        ([chat("q", "a", label="odd")], "line 1: label is 'odd'; use one of misaligned"),
        ([chat("q", "a", label="aligned")], "needs misaligned and aligned rows"),
        ([{"x": 1}], "line 1: "),
    ]:
        with pytest.raises(InputError, match=text):
            read_items([write_rows(tmp_path / "b.jsonl", bad)])
    with pytest.raises(InputError, match="line 1: the question has one answer"):
        matched(read_items([write_rows(tmp_path / "c.jsonl", [rows[0], *rows[2:]])]))
    with pytest.raises(InputError, match="line 2: a second answer of this label"):
        matched(read_items([write_rows(tmp_path / "d.jsonl", [rows[0], rows[0], rows[1]])]))
