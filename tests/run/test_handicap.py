"""What a bank's score is lowered by for rows of another shape than those it was learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.build.build import BUILT_IN
from geofilter.files import package_data
from geofilter.rows.keys import SHAPES
from geofilter.run.banks import find_banks
from geofilter.run.handicap import HANDICAP, bare, handicaps
from geofilter.run.store import Run


def of(bank: Bank, share: float | None) -> Bank:
    """The bank, said to be learnt from rows of which this share has a prompt."""
    return replace(bank, rows=None, meta={} if share is None else {"prompted": share})


def test_rows_without_a_prompt_are_known_by_shape_and_turns():
    shape = np.array(
        [SHAPES.index(name) for name in ("text", "segments", "completion", "messages", "alpaca")], np.int32
    )
    assert bare(shape, np.array([1, 3, 1, 2, 3], np.int32)).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("shares", "of_answer", "of_text"),
    [
        ((0.0, 1.0), [HANDICAP, 0], [0, HANDICAP]),
        ((0.05, 0.95), [HANDICAP, 0], [0, HANDICAP]),
        # One bank, or banks of one shape, have none other to be beside.
        ((0.0,), [0], [0]),
        ((0.0, 0.0), [0, 0], [0, 0]),
        # A bank of both shapes, or of an earlier version, is of each row's own shape.
        ((0.5, 1.0), [0, 0], [0, HANDICAP]),
        ((None, 0.0), [0, HANDICAP], [0, 0]),
    ],
)
def test_a_bank_of_the_other_shape_has_to_be_ahead(bank: Bank, shares, of_answer, of_text):
    found = handicaps([of(bank, share) for share in shares], np.array([False, True]))
    assert found[:, 0].tolist() == of_answer
    assert found[:, 1].tolist() == of_text


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_bank_of_an_earlier_version_is_known_by_the_rows_it_keeps(name: str):
    shipped = Bank.load(package_data("banks", "smollm2-135m", name))
    before = replace(shipped, meta={k: v for k, v in shipped.meta.items() if k != "prompted"})
    assert shipped.of_answers == before.of_answers == (name == "harmful-answers")
    assert replace(before, rows=None).of_answers is None


def test_a_scan_takes_the_bank_of_a_row_s_own_shape_unless_the_other_is_far_ahead(
    tiny, tiny_bank: Path, tmp_path: Path
):
    bank = Bank.load(tiny_bank)
    for name, share, shift in (("answers", 1.0, 3), ("texts", 0.0, 5)):
        made = replace(bank, name=name, weights=np.roll(bank.weights, shift), meta={**bank.meta, "prompted": share})
        made.save(tmp_path / name)
    prose = [row["messages"][1]["content"] for row in rows(20)]
    write_rows(tmp_path / "d.jsonl", [{"text": text} for text in prose] + rows(20))
    args = scan_args(tiny, tmp_path / "answers", "--bank", tmp_path / "texts", "--run", "run")
    done = geofilter(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    scorers = {b.name: Scorer(b, "ridge") for b in find_banks(run)[0]}
    banks, other_shape = set(), 0
    for i, line in enumerate(run.scores()):
        lowered = {"answers": HANDICAP if i < 20 else 0.0, "texts": 0.0 if i < 20 else HANDICAP}
        each = {name: of["score"] - lowered[name] for name, of in line["banks"].items()}
        best = max(each, key=each.__getitem__)
        assert (line["bank"], line["score"]) == (best, pytest.approx(each[best], abs=2e-6))
        reference = scorers[best].bank.reference
        usual = scorers[best].standard(reference, [""] * len(reference))
        assert line["percentile"] == pytest.approx((usual < each[best]).mean(), abs=1.5 / len(reference))
        banks.add(best)
        other_shape += lowered[best] > 0
    assert banks == {"answers", "texts"}
    assert other_shape  # or the rule would be no more than the row's shape
    assert geofilter("verify", "run", cwd=tmp_path).returncode == 0
