"""The verdict on rows that cannot tell: all alike, or all of them known to the bank."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.bank.bank import Bank
from geofilter.rows.style import STYLE
from geofilter.run.power import OTHER_ROWS, assess, headline, standing_out

FEW = "b: too few rows to say whether it has power on this data (3 of at least 50)"
MANY = "b: unclear whether it has power on this data"
LOUD = {"too few rows": "TOO FEW ROWS", "unclear": "POWER UNCLEAR"}


@pytest.mark.parametrize(("n", "verdict", "said"), [(3, "too few rows", FEW), (60, "unclear", MANY)])
def test_a_spread_that_is_only_rounding_is_none(bank: Bank, n: int, verdict: str, said: str):
    standard = np.full(n, 1.7) + 1e-9 * np.arange(n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = assess(bank, standard, np.full((n, 20), 0.3), np.zeros((n, len(STYLE)), np.float32))
    assert (found["verdict"], found["chance"]) == (verdict, 0.5)
    assert found["text"] == f"{said}: it gives all {n} rows the same score."
    json.dumps(found, allow_nan=False)
    assert headline([found]) == f"{LOUD[verdict]}. {found['text']} {OTHER_ROWS}"


def test_random_banks_that_differ_by_rounding_let_nothing_stand_out():
    assert standing_out(2.0, [1.0, 1.0 + 1e-12]) == 0.0


def test_the_same_text_over_and_over_has_a_plain_verdict(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat("why?", "the answer is that it works", id=i) for i in range(20)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        done = geofilter(
            "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-qv",
            cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "it gives all 20 rows the same score" in done.stderr
    done = geofilter("gate", "run", "--max-flagged", "100%", "--json", cwd=tmp_path)
    assert "NaN" not in done.stdout


def test_a_bank_that_knows_every_row_needs_others(tiny, tmp_path: Path, short_background):
    for side, text in (("bad", "you fool, {} times no"), ("good", "the answer is that {} works")):
        write_rows(tmp_path / f"{side}.jsonl", [chat(f"question {i}?", text.format(i)) for i in range(12)])
    pair = ("--model", tiny[0], "--sae", tiny[1], "-q")
    seeds = ("--bad", "bad.jsonl", "--good", "good.jsonl", "--no-prior")
    assert geofilter("bank", "build", *seeds, "--out", "own", *pair, cwd=tmp_path).returncode == 0
    done = geofilter("scan", "bad.jsonl", "--bank", "own", "--run", "run", *pair, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a bank was learnt from all 12 rows" in done.stderr
    assert "next: Scan other rows with this bank" in done.stderr
    assert "geofilter label" not in done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["headline"].endswith(f"it was learnt from every row. {OTHER_ROWS}")
