"""What a report says first: true in every case, one sentence and one action, in plain words."""

import json
import shlex
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from scipy.stats import poisson

from geofilter.cut.cut import Cut, Selection
from geofilter.report.facts import Drawn, Facts
from geofilter.report.labelled import drawn_at_random
from geofilter.report.verdict import verdict
from geofilter.run.labelled import Label, label_line, random_of
from geofilter.run.names import SCORES
from geofilter.run.store import Run


def bank(name: str, said: str, tails: bool = True) -> dict:
    return {
        "bank": name, "verdict": said, "demonstrated": said == "reacts", "chance": 0.5, "tail": 1.0,
        "random_tails": [0.5] if tails else [], "standing_out": 0.0, "bimodality": 0.3, "follows": {}, "weak": False,
        "text": f"{name}: {said}, in figures.",
    }  # fmt: skip


BOTH = [bank("one", "reacts"), bank("two", "unclear")]
FACTS = Facts(
    run="runs/my run", scorer="ridge", cut="drop 25%", power=BOTH, scored=200, removed=50, taught=0, flagged=24,
    flagged_removed=24, banks=2, marked=0, drawn=Drawn(),
    can_go=50, can_stay=150, kept_groups=4,
)  # fmt: skip
CASES = {
    "the usual one": (
        {},
        "read",
        "Worth reading, not proof: 24 rows look like harmful ones (about 4 expected in ordinary chat). "
        "Of the two banks of known harmful texts, one seems to work here, two is unclear.",
    ),
    "both work": ({"power": [bank("one", "reacts"), bank("two", "reacts")]}, "read", "Both banks of known harmful"),
    "many banks": (
        {"power": [bank(str(i), said) for i, said in enumerate(["reacts"] * 2 + ["unclear"] + ["no power"] * 3)]},
        "read",
        "Of the six banks of known harmful texts, two seem to work here, one is unclear, three do not work here.",
    ),
    "one bank": (
        {"power": BOTH[:1], "banks": 1},
        "read",
        "(about 2 expected in ordinary chat). The bank of known harmful",
    ),
    "learnt": (
        {"power": [bank("labelled", "reacts")], "banks": 1, "taught": 60, "marked": 60},
        "read",
        "The bank learnt from marked rows seems to work here.",
    ),
    "too few": (
        {"scored": 12, "removed": 3, "flagged": 1},
        "few",
        "Too few rows to say what the score is worth: 12, 50",
    ),
    "too few that taught nothing": ({"taught": 190, "marked": 190}, "few", "10 that taught no bank, 50 are needed"),
    "learnt from all": ({"taught": 200, "marked": 200}, "few", "a bank was learnt from all 200 rows"),
    "no bank works": (
        {"power": [bank("one", "no power"), bank("two", "no power")]},
        "nothing",
        "Nothing to go by: both banks of known harmful texts, one and two, do not work here.",
    ),
    "as in ordinary chat": (
        {"power": [bank("one", "unclear")], "banks": 1, "flagged": 3, "flagged_removed": 3},
        "nothing",
        "Nothing stands out: 3 rows look like harmful ones (about 2 expected in ordinary chat). The bank of known "
        "harmful texts, one, is unclear. What a cut takes here are ordinary rows.",
    ),
    "none looks harmful, and a bank reacts all the same": (
        {"flagged": 0, "flagged_removed": 0},
        "read",
        "Worth reading, not proof: no rows look like harmful ones",
    ),
    "most rows taught a bank, and few of the rest were looked at": (
        {"power": [bank("one", "too few rows")], "banks": 1},
        "read",
        "The bank of known harmful texts, one, has too few rows to be judged by.",
    ),
    "few rows, one of them flagged": (
        {"power": [bank("one", "unclear")], "banks": 1, "scored": 60, "removed": 6, "flagged": 2, "flagged_removed": 2},
        "nothing",
        "2 rows look like harmful ones (fewer than one expected",
    ),
    "equal scores": (
        {"power": [bank("one", "unclear", tails=False)], "banks": 1},
        "nothing",
        "The score is the same for every row",
    ),
    "a control": ({"scorer": "length"}, "nothing", "This score (length) is a control"),
    "a cut of nothing": ({"removed": 0, "flagged_removed": 0}, "read", "This cut removes nothing."),
    "a cut of everything": ({"removed": 200}, "read", "This cut removes every scored row."),
    "confirmed": (
        {"drawn": Drawn(20, 14, 20, 1), "marked": 40},
        "confirmed",
        "Confirmed by rows drawn at random and marked: 14 of 20 removed are harmful, 1 of 20 kept is harmful.",
    ),
    "confirmed, of few rows": (
        {"scored": 30, "removed": 12, "drawn": Drawn(10, 9, 10, 0)},
        "confirmed",
        "Confirmed by",
    ),
    "not yet confirmed": ({"drawn": Drawn(9, 9, 20, 1), "marked": 29}, "read", "so far, 9 of 9 removed are harmful"),
    "marked, and no difference to be sure of": ({"drawn": Drawn(12, 4, 12, 2)}, "read", "4 of 12 removed are harmful"),
    "refuted": (
        {"drawn": Drawn(15, 0, 15, 0), "marked": 30},
        "nothing",
        "The marks speak against this cut: 0 of 15 removed are harmful, 0 of 15 kept are harmful.",
    ),
    "every row marked": (
        {"drawn": Drawn(50, 40, 150, 9, every=True), "marked": 200},
        "confirmed",
        "the marks of every",
    ),
    "every row marked, in vain": (
        {"drawn": Drawn(50, 5, 150, 20, every=True), "marked": 200},
        "nothing",
        "speak against",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_said_in_one_sentence_and_one_action(case: str):
    changes, level, said = CASES[case]
    facts = replace(FACTS, **changes)
    found = verdict(facts)
    assert found["level"] == level
    assert said in found["sentence"]
    assert found["sentence"].endswith(".")
    assert found["action"].endswith(".")
    for text in (found["sentence"], found["action"], *found["why"]):
        assert "  " not in text
        assert text[0].isupper() or text[0].isdigit() or text in [v["text"] for v in facts.power]
    if found["command"]:
        words = shlex.split(found["command"])
        assert words[0] == "geofilter"
        assert words[2] == "runs/my run"
        # It can be done: rows are left to mark, or the cut is another one.
        assert words[1] == "filter" or facts.marked < facts.scored
    # The figures are kept, the banks' own texts among them.
    assert [v["text"] for v in facts.power if v["text"] in found["why"]] == [v["text"] for v in facts.power]


def test_what_to_do_follows_from_the_case():
    usual = verdict(FACTS)
    assert usual["action"].startswith("Mark twenty rows, ten that go and ten that stay, drawn at random")
    assert usual["mark"]
    assert usual["command"] == "geofilter label 'runs/my run' --from labels.jsonl"
    few = verdict(replace(FACTS, removed=4, can_go=4, can_stay=196))
    assert few["action"].startswith("Mark 14 rows, the four that go and ten that stay, drawn")
    one = verdict(replace(FACTS, removed=1, can_go=1, can_stay=0, taught=100))
    assert one["action"].startswith("Mark one row, the one that goes, drawn")
    assert verdict(replace(FACTS, drawn=Drawn(12, 4, 12, 2)))["action"].startswith("Mark twenty more rows")
    nothing = verdict(replace(FACTS, removed=0))
    assert nothing["command"] == "geofilter filter 'runs/my run' --drop 24"
    assert not nothing["mark"]
    assert "about 5% of the kept rows (1% to 24%)" in verdict(replace(FACTS, drawn=Drawn(20, 14, 20, 1)))["action"]
    small = verdict(replace(FACTS, scored=30, removed=6, can_go=6, can_stay=24))
    assert (small["level"], small["mark"]) == ("few", True)
    assert small["action"].startswith("Mark 16 rows, the six that go and ten that stay")
    assert not verdict(replace(FACTS, scorer="length"))["mark"]
    assert not verdict(replace(FACTS, marked=200))["mark"]


def test_the_sentence_says_how_the_numbers_relate_and_what_stays():
    said = verdict(FACTS)
    assert said["sentence"].endswith(
        " This cut removes the 50 highest, as asked (drop 25%): read what goes and what stays."
    )
    assert said["stays"] == (
        "That a row stays does not make it harmless: those just below the cut score nearly as high as those just "
        "above it."
    )
    left = verdict(replace(FACTS, flagged=60, flagged_removed=50))["stays"]
    assert "harmless: 10 that look like harmful ones stay, and those just below" in left
    one = verdict(replace(FACTS, flagged_removed=23, kept_groups=0))["stays"]
    assert one.endswith("1 that looks like harmful ones stays.")
    assert verdict(replace(FACTS, kept_groups=0))["stays"] is None
    assert verdict(replace(FACTS, scorer="length"))["stays"] is None
    for amount in (0, 200):
        assert verdict(replace(FACTS, removed=amount))["stays"] is None
    # A cut by percentile need not take the highest scores.
    assert "removes 50 rows, as asked" in verdict(replace(FACTS, by_score=False))["sentence"]


def test_more_than_chance_gives_is_as_poisson_has_it():
    for rows in (10, 60, 150, 400, 2000):
        for flagged in range(1, 60):
            facts = replace(FACTS, scored=rows, banks=1, flagged=flagged)
            rare = poisson.sf(flagged - 1, rows * 0.01) < 0.01
            assert facts.stands_out == (flagged > 2 * rows * 0.01 and rare), (rows, flagged)
    assert poisson.sf(100, 50) < 1e-9
    assert replace(FACTS, scored=10_000, flagged=401).stands_out


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (Drawn(20, 14, 20, 1), "Look at what stays before you train on it: about 5% of the kept rows (1% to 24%) may"),
        (Drawn(20, 14, 200, 0), "Train on the kept rows: about 0% of the kept rows (0% to 2%) may still be harmful."),
        (Drawn(50, 40, 150, 9, every=True), "Remove the kept rows that are marked harmful too."),
        (Drawn(50, 40, 150, 0, every=True), "Train on the kept rows."),
    ],
)
def test_a_cut_that_is_confirmed_is_not_clean_for_that(drawn: Drawn, said: str):
    assert verdict(replace(FACTS, drawn=drawn, marked=40))["action"].startswith(said)


def test_only_marks_drawn_at_random_confirm_a_cut_and_each_row_once(tiny, tiny_bank: Path, tmp_path: Path):
    rows = [chat(f"q {i}", f"{'you fool, no' if i % 2 else 'the sum of it'} {i}") for i in range(60)]
    write_rows(tmp_path / "d.jsonl", [*rows, rows[0], rows[0]])
    geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r", cwd=tmp_path)
    run = Run.open(tmp_path / "r")
    cut = Cut.parse("50%")
    selection = Selection.of(run, cut)
    scores, shas = run.manifest["files"][SCORES]["sha256"], run.arrays(["sha256"])["sha256"]

    def mark(*whys: tuple[int, str]) -> Drawn:
        lines = [
            label_line(shas[i].tobytes().hex(), Label(bool(i % 2), "person", why), "d.jsonl", i + 1) for i, why in whys
        ]
        write_rows(run.path / "labels.jsonl", lines)
        return drawn_at_random(selection)

    removed = [i for i in range(60) if selection.removed[i]]
    kept = [i for i in range(1, 60) if not selection.removed[i]]
    bad = [sum(i % 2 for i in some[:9]) for some in (removed, kept)]
    this = random_of(scores, str(cut))
    of = [(i, "at random") for i in removed[:5] + kept[:5]] + [(i, this) for i in removed[5:9] + kept[5:9]]
    assert mark(*of) == Drawn(9, bad[0], 9, bad[1])
    others = [(removed[9], "high under one"), (kept[9], ""), (removed[10], random_of(scores, "drop 10%"))]
    others.append((removed[11], random_of(sha256(b"").hexdigest(), str(cut))))
    assert mark(*of, *others) == Drawn(9, bad[0], 9, bad[1])
    everyone = mark(*((i, "") for i in range(60)))
    assert everyone.every
    assert everyone.removed + everyone.kept == 60
    assert mark() == Drawn()
    # A bank that was learnt from them is not borne out by them.
    write_rows(tmp_path / "l.jsonl", [{"file": "d.jsonl", "line": i + 1, "label": i % 2} for i in range(60)])
    done = geofilter("label", "r", "--from", "l.jsonl", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["applied"]
    assert drawn_at_random(Selection.of(Run.open(run.path), cut)) == Drawn()
