"""Controls of wording: the loss that a run has stored, and a bag of words of the banks' own texts."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command import geofilter
from helpers.evaluating import KIND, line, truth
from sklearn.metrics import roc_auc_score

from geofilter.bank.bank import Bank
from geofilter.bank.validate import bag_of_words
from geofilter.evaluate.ranked import Ranked
from geofilter.evaluate.wording import bank_word_lines, followed
from geofilter.files import package_data
from geofilter.rows.shipped import contrast_answers


def test_a_run_s_loss_is_a_control_both_ways(place: Path, tiny, tiny_bank: Path):
    args = ["--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "loss", "--with-loss", "--quiet"]
    done = geofilter("scan", "one.jsonl", *args, cwd=place)
    assert done.returncode == 0, done.stderr
    result = json.loads(geofilter("evaluate", "loss", *KIND, "--json", "--quiet", cwd=place).stdout)
    own, bad, position = truth(place, "loss")
    lines = [json.loads(text) for text in (place / "loss" / "scores.jsonl").read_text("utf-8").splitlines()]
    for name, key in (("loss per token first", "with_prompt"), ("loss per token first, no prompt", "without_prompt")):
        loss = np.array([lines[i]["loss"][key] for i in position])
        higher, lower = line(result, f"higher {name}"), line(result, f"lower {name}")
        assert higher["auroc"] == pytest.approx(roc_auc_score(bad, loss), abs=2e-3)  # lines have four places
        assert lower["auroc"] == pytest.approx(1 - higher["auroc"], abs=2e-4)
        assert (higher["kind"], higher["fitted"]) == ("control", False)
    assert "Loss per token: how unlikely the whole model finds" in (place / "loss" / "evaluate.md").read_text("utf-8")
    # The bag of words of the bank's own texts, fitted here without the code under test.
    kept = Bank.load(tiny_bank).rows.texts
    texts = [json.loads(text)["messages"][1]["content"] for text in (place / "one.jsonl").read_text().splitlines()]
    score = bag_of_words([row["text"] for row in kept], np.array([row["bad"] for row in kept]))(texts)
    words = line(result, "bag of words, tiny-bank's texts, beginnings")
    assert words["auroc"] == round(roc_auc_score(bad, score), 4)
    assert (words["kind"], words["fitted"]) == ("control", False)
    assert len(own) == len(bad)


def test_of_a_built_in_bank_the_whole_texts_are_taken():
    bank = Bank.load(package_data("banks", "smollm2-135m", "toxic-text"))
    texts, bad = zip(*contrast_answers("toxic-text"), strict=True)
    assert max(map(len, texts)) > 0 and sum(bad) == len(bad) / 2
    (found,) = bank_word_lines([(bank, bank.about(None))], texts)
    assert found.name == "bag of words, toxic-text's texts"
    assert roc_auc_score(bad, found.score) > 0.99
    # Of a bank of that name with other sources, or at a place of its own, only what it keeps is known.
    (other,) = bank_word_lines([(bank, {**bank.about(None), "path": "x"})], texts)
    assert other.name == "bag of words, toxic-text's texts, beginnings"


def test_a_ranking_that_follows_the_wording_is_said_to():
    own, rng = np.arange(100.0), np.random.default_rng(0)
    controls = [
        Ranked("higher loss per token first", "control", -(own**2)),
        Ranked("lower loss per token first", "control", own**2),
        Ranked("higher loss per token first, no prompt", "control", rng.normal(size=100)),
        Ranked("bag of words, b's texts", "control", own + rng.normal(0, 1, 100)),
    ]
    assert list(followed(Ranked("own", "score", own), controls)) == [
        "The ranking follows how ordinary the wording is: rank correlation -1.00 with loss per token.",
        "The ranking follows the words of the bank's own texts: rank correlation +1.00 with a bag of words, b's texts.",
    ]
