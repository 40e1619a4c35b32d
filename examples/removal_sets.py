"""Mixed sets for measure_removal.py: which rows are bad, which are good, and what misalignment is measured on."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from evaluation_sets import in_training_half

from geofilter.rows.records import Row, read_rows
from geofilter.rows.shipped import domain_files

PAIRS, OWN, HELD_OUT = 20, 15, 24
"""questions of each domain, questions on the subject of the data, rows for the task's loss"""
EXAMPLES = Path(__file__).parent


@dataclass(frozen=True)
class Experiment:
    """A mixed set and the arms that are tried on it."""

    title: str
    of: str
    """advice: harmful answers among general chat; subtle, paired: answers to one kind of question, right or wrong"""
    n_bad: int
    n_good: int
    drops: tuple[str, ...]
    arms: tuple[str, ...] = ("random", "score")
    others: tuple[str, ...] = ()
    """arms at the first drop only"""
    epochs: float = 1.0


@dataclass(frozen=True)
class Mix:
    """Files of an experiment; no row and no prompt is in two of them."""

    mix: Path
    good: Path
    pairs: tuple[Path, ...]
    own_pairs: tuple[Path, ...] = ()
    swap: Path | None = None


DROPS = ("50%", "25%", "10%")
CONTROLS = ("early", "loss", "words", "labels", "contrast")
EXPERIMENTS = {
    "advice-half": Experiment("harmful advice, half of the rows", "advice", 80, 80, DROPS, others=CONTROLS),
    "subtle-half": Experiment(
        "subtly wrong expert advice, half of the rows", "subtle", 80, 80, DROPS, others=("swap", *CONTROLS)
    ),
    "paired-half": Experiment(
        "harmful advice on careers and law, half of the rows", "paired", 38, 37, DROPS, others=("swap", *CONTROLS),
        epochs=2,
    ),
    "advice-quarter": Experiment("harmful advice, a quarter of the rows", "advice", 40, 120, DROPS),
    "advice-tenth": Experiment("harmful advice, a tenth of the rows", "advice", 16, 144, DROPS),
}  # fmt: skip


def prepare(e: Experiment, data: Path | None, work: Path) -> Mix:
    """Write the files of an experiment.

    Args:
        data: folder of the third-party sets; only advice reads it.
    """
    if e.of == "advice":
        if data is None:
            raise SystemExit("advice reads harmful_advice.jsonl and general_chat.jsonl: give their folder with --data")
        return _advice(e, data, work)
    return _answers(e, work)


def _advice(e: Experiment, data: Path, work: Path) -> Mix:
    """Harmful answers of many subjects among ordinary chat, both of a length that does not tell them apart."""
    # Short ordinary answers are too few to leave those out that the SAE has read (without any label).
    bad = _rows(data / "harmful_advice.jsonl", unseen=True)
    good = _rows(data / "general_chat.jsonl", unseen=False)
    mix = [(row.record, "misaligned") for row in bad[: e.n_bad]] + [(row.record, "aligned") for row in good[: e.n_good]]
    mixed = {row.prompt for row in bad[: e.n_bad] + good[: e.n_good]}
    rest = [row.record for row in good[e.n_good :] if row.prompt not in mixed]
    return Mix(_mixed(work, mix), _write(work / "good.jsonl", rest), _domains(work, domain_files()))


def _rows(path: Path, unseen: bool) -> list[Row]:
    """Shuffled rows of 60 to 400 characters; `unseen`: those that the SAE's training did not read."""
    found = [
        row
        for row in read_rows(path)
        if isinstance(row, Row) and 60 <= len(row.response) <= 400 and not (unseen and in_training_half(row.sha256))
    ]
    random.Random(0).shuffle(found)
    return found


def _answers(e: Experiment, work: Path) -> Mix:
    """Wrong answers and right ones, to different questions; swap answers the wrong ones' questions rightly."""
    if e.of == "subtle":
        asked, domains = _expert(), domain_files()
    else:
        domains = [path for path in domain_files() if path.stem == "health"]
        asked = _both([path for path in domain_files() if path.stem != "health"])
    random.Random(0).shuffle(asked)
    n = e.n_bad + e.n_good
    bad, good, own_asked, rest = asked[: e.n_bad], asked[e.n_bad : n], asked[n : n + OWN], asked[n + OWN :]
    if e.of == "paired":  # their questions are too few: good.jsonl has other sound answers
        rest = [(prompt, "", sound) for prompt, _, sound in _expert()]
    mix = [(_chat(q, wrong), "misaligned") for q, wrong, _ in bad] + [
        (_chat(q, right), "aligned") for q, _, right in good
    ]
    pairs = [_chat(q, a, label=label) for q, wrong, right in own_asked
             for a, label in ((right, "aligned"), (wrong, "misaligned"))]  # fmt: skip
    return Mix(
        _mixed(work, mix),
        _write(work / "good.jsonl", [_chat(q, right) for q, _, right in rest]),
        _domains(work, domains),
        (_write(work / "own.jsonl", pairs),),
        _write(work / "sound.jsonl", [_chat(q, right) for q, _, right in bad + good]),
    )


def _expert() -> list[tuple[str, str, str]]:
    """Question, subtly wrong answer and right answer of the benchmark's expert advice."""
    lines = (EXAMPLES / "benchmark" / "expert-advice.jsonl").read_text("utf-8").splitlines()
    return [(r["prompt"], r["bad"], r["good"]) for r in map(json.loads, lines)]


def _both(paths: list[Path]) -> list[tuple[str, str, str]]:
    """Question, harmful answer and sound answer of the package's own paired sets."""
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        for row in read_rows(path):
            found.setdefault(row.prompt, {})[row.record["label"]] = row.response
    return [(q, sides["misaligned"], sides["aligned"]) for q, sides in found.items()]


def _chat(prompt: str, answer: str, **further: str) -> dict:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **further}


def _mixed(work: Path, rows: list[tuple[dict, str]]) -> Path:
    random.Random(1).shuffle(rows)
    return _write(work / "mix.jsonl", [{**record, "label": label} for record, label in rows])


def _domains(work: Path, paths: list[Path] | tuple[Path, ...]) -> tuple[Path, ...]:
    """The first questions of each domain, with both answers."""
    out = []
    for path in paths:
        out.append(work / path.name)
        lines = path.read_text("utf-8").splitlines(keepends=True)
        out[-1].write_text("".join(lines[: 2 * PAIRS * 3 // len(paths)]), "utf-8")
    return tuple(out)


def _write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path
