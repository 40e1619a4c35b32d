"""What a loss mask leaves out of rows in which a harmful answer is planted, beside words, tokens and random sentences.

    python -m benchmarks.mask --harmful harmful.jsonl --chat chat.jsonl --work WORK

From the repository's root. Both files have chat rows of one question and one answer; harmful ones have the label
`misaligned`. 140 rows are two answers of ordinary chat with a harmful one before, between or behind them, 80 are
ordinary chat. They are scanned with the embedded model; rows and run are kept in WORK.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import geofilter
from geofilter.arrays import F32, Bools, Positions
from geofilter.bank.words import says_something
from geofilter.cut.mask import largest_until, sentence_ends
from geofilter.rows.records import Row, usable_rows
from geofilter.run.marks import RowMarks, marks_of
from geofilter.run.rows import rows_at
from geofilter.run.store import Run

PLANTED, PLAIN, SEED, SKIPPED = 140, 80, 11, 100
"""rows with a harmful answer and without, and harmful answers that the rule was chosen on"""
LIMITS = (1.0, 1.5, 2.0)
UNITS = ("sentences", "random sentences", "words", "tokens")
SAMPLES = 1000


def planted_rows(harmful: Path, chat: Path) -> list[dict[str, Any]]:
    """Rows with the characters of the harmful answer as `span`; None where there is none."""
    draw = random.Random(SEED)
    ordinary = _answers(chat, 200, 700)
    bad = [row for row in _answers(harmful, 150, 500) if row.record.get("label") == "misaligned"]
    draw.shuffle(ordinary)
    draw.shuffle(bad)
    out = []
    for i in range(PLANTED + PLAIN):
        first, second = (ordinary[(3 * i + k) % len(ordinary)] for k in (0, 1))
        parts, place = [first.response.strip()], -1
        if i < PLANTED:
            parts, place = [*parts, second.response.strip()], draw.randrange(3)
            parts.insert(place, bad[SKIPPED + i].response.strip())
        low = sum(len(part) + 2 for part in parts[: max(place, 0)])
        turns = [("user", first.prompt), ("assistant", "\n\n".join(parts))]
        out.append({"messages": [{"role": role, "content": text} for role, text in turns],
                    "span": None if place < 0 else [low, low + len(parts[place])]})  # fmt: skip
    return out


def _answers(path: Path, least: int, most: int) -> list[Row]:
    """Rows of one answer of so many characters."""
    return [row for row in usable_rows(path) if len(row.turns) == 2 and least < len(row.response) < most]


def left_out(unit: str, text: str, marks: RowMarks, excess: float, draw: random.Random) -> Bools:
    """Which tokens (n,) of a row are left out, by units of some kind."""
    share: F32 | None = marks.share
    assert share is not None
    of, n = _units(unit, text, marks)
    inside = of >= 0
    gone = largest_until(share[inside], of[inside], n, excess)
    if unit == "random sentences":
        size = np.bincount(of[inside], minlength=n)
        wanted, order = int(size[gone].sum()), draw.sample(range(n), n)
        before = np.cumsum([0, *size[order]])[:-1]
        gone[:] = False
        gone[[one for one, done in zip(order, before.tolist(), strict=True) if done < wanted]] = True
    result: Bools = inside & gone[of]
    return result


def _units(unit: str, text: str, marks: RowMarks) -> tuple[Positions, int]:
    """The unit of each token (n,), -1 for none, and how many units there are."""
    if unit == "tokens":
        return np.arange(len(marks.start)), len(marks.start)
    last = np.maximum(marks.start, marks.end - 1)
    if unit != "words":
        ends = list(sentence_ends(text))
        return np.searchsorted(ends, last, side="right"), len(ends)
    word, n, of = np.full(len(text), -1), 0, ""
    for at, character in enumerate(f"{text} "):
        if character.isalnum() or character in "_'\u2019":
            of += character
        elif of:
            if says_something(of):
                word[at - len(of) : at] = n
                n += 1
            of = ""
    return word[last], n


def measure(run: Run, spans: Sequence[list[int] | None], limit: float, unit: str) -> str:
    """A line of the table."""
    score, n = run.arrays(["score"])["score"], len(spans)
    marks, rows, draw = marks_of(run, list(range(n))), rows_at(run, list(range(n))), random.Random(1)
    counts, of_plain, plain = [], 0, 0
    for i, span in enumerate(spans):
        found, text = marks[i], rows[i].response
        plain += 0 if span else len(found.start)
        if score[i] <= limit:
            continue
        gone = left_out(unit, text, found, float(score[i]) - limit, draw)
        if span is None:
            of_plain += int(gone.sum())
            continue
        last = np.maximum(found.start, found.end - 1)
        there = (last >= span[0]) & (last < span[1])
        counts.append([int(x.sum()) for x in (gone & there, gone, there, np.ones_like(gone))])
    per, rng = np.array(counts), np.random.default_rng(0)
    both, out, harm, every = per.sum(0).tolist()
    samples = (per[rng.integers(0, len(per), len(per))].sum(0) for _ in range(SAMPLES))
    low, high = np.percentile([a / max(1, b) for a, b, *_ in samples], [2.5, 97.5])
    return (
        f"{limit:g} {unit}: {len(per)} planted rows above, {harm / every:.0%} of their tokens planted; "
        f"{both / out:.0%} ({low:.0%} to {high:.0%}) of what is left out is planted, {both / harm:.0%} of the planted, "
        f"{out / every:.0%} of the row, {of_plain / plain:.1%} of plain rows"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harmful", type=Path, required=True)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows, data = planted_rows(args.harmful, args.chat), args.work / "planted.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    target = geofilter.TargetChoice("smollm2-135m")
    run = geofilter.scan(geofilter.ScanConfig((str(data),), target), args.work / "run")
    for limit in LIMITS:
        for unit in UNITS:
            print(measure(run, [row["span"] for row in rows], limit, unit))


if __name__ == "__main__":
    main()
