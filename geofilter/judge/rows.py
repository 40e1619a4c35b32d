"""The rows of JSONL files, rated by a judge; a run that is stopped goes on where it was. Ratings as labels, too."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from geofilter.errors import InputError, RunError, TargetError
from geofilter.files import Notify, atomic, dumps, locked, silent
from geofilter.judge.client import Judge
from geofilter.judge.plan import Plan, numbered, reuse, row_prompt
from geofilter.judge.rating import Rating
from geofilter.rows.records import Row, Unusable
from geofilter.text import counted


def by_judge(
    judge: Judge, max_chars: int, bad_below: float
) -> Callable[[Sequence[Row], Callable[[int, bool | None], None]], None]:
    """Ask a judge about rows with the prompt of `geofilter judge`; a row without a usable rating gets no label.

    Args:
        max_chars: of a row's prompt and of its response that are sent.
        bad_below: rating, 0 to 100, under which a row is bad.

    Raises, when called:
        TargetError: the endpoint refuses or fails, or no answer so far could be used; it has told of all that came.
    """
    asked = usable = 0

    def answer(rows: Sequence[Row], done: Callable[[int, bool | None], None]) -> None:
        def prompts() -> Iterator[tuple[int, str]]:
            return ((i, row_prompt(row, max_chars)) for i, row in enumerate(rows))

        def rated(i: int, rating: Rating) -> None:
            nonlocal asked, usable
            asked, usable = asked + 1, usable + (rating.value is not None)
            done(i, None if rating.value is None else rating.value < bad_below)

        judge.rate_all(prompts(), rated)
        if asked and not usable:
            raise none_usable(judge, asked)

    return answer


def none_usable(judge: Judge, answers: int, why: str | None = None) -> TargetError:
    """What is said when a judge has rated nothing."""
    said = f" ({why})" if why else ""
    return TargetError(
        f"{judge.base_url}: none of {counted(answers, 'answer')} by {judge.model} could be used{said}; check "
        "the model's name, or take one that follows the prompt"
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """What `judge_files` came to."""

    rows: int
    rated: int
    unusable: int
    """rows that were asked and have no rating"""
    quarantined: int
    """lines that are no rows"""
    mean: float | None
    """of the ratings; a row that stands twice counts twice"""
    why: str | None = None
    """what was wrong with most of the answers that could not be used"""


def judge_files(
    todo: Plan,
    judge: Judge,
    *,
    max_cost: float | None = None,
    notify: Notify = silent,
    progress: Callable[[int], None] = silent,
) -> Summary:
    """Ask for the ratings that a plan lacks, then write its outputs: one line a row, in input order.

    Ratings are appended to a .part file beside the output as they come, so a run that is stopped goes on from there.

    Args:
        max_cost: US dollars; ends the run when the endpoint's own count of tokens comes to more.
        progress: told how many more rows have been rated.

    Raises:
        InputError: an output that cannot be written, or `max_cost`.
        TargetError: the endpoint refuses or fails; what is rated is kept.
        RunError: another process writes the same output, or the data have changed meanwhile.
    """
    firsts = [n for n, path in enumerate(todo.outs) if todo.outs.index(path) == n]
    with ExitStack() as stack:
        for n in firsts:
            part = todo.part(n)
            taken = f"{part}: another geofilter judge is writing it; wait for it or give another --out"
            lock = part.with_name(f"{part.name}.lock")
            stack.enter_context(locked(lock, taken, remedy="give another --out"))
        if todo.requests:
            # Another run may have gone on, or ended, between the plan and the lock; and nothing is asked twice.
            for n in firsts:
                for path in (todo.outs[n], todo.part(n)):
                    if path.exists():
                        reuse(todo, path, torn=True)
            _ask_all(todo, judge, max_cost, progress, {n: stack.enter_context(_appended(todo.part(n))) for n in firsts})
        if not judge.tokens_in and judge.requests and todo.prices:
            notify("the endpoint does not count tokens: what was spent is not known")
        summary = _write(todo, firsts)
        for n in firsts:
            # Ratings that another judge has begun stay for it.
            if todo.part(n).exists() and not reuse(todo, todo.part(n), torn=True):
                todo.part(n).unlink()
    return summary


def _ask_all(
    todo: Plan, judge: Judge, max_cost: float | None, progress: Callable[[int], None], parts: Mapping[int, IO[bytes]]
) -> None:
    # A row that got no answer at all in an earlier run is no part of `finished`, but one of this run is.
    asked: set[bytes] = set()

    def prompts() -> Iterator[tuple[tuple[int, str], str]]:
        for number, row in numbered(todo):
            if isinstance(row, Unusable):
                continue
            digest = bytes.fromhex(row.sha256)
            if digest not in todo.finished and digest not in asked:
                asked.add(digest)
                yield (todo.outs.index(todo.outs[number]), row.sha256), row_prompt(row, todo.max_chars)

    def done(key: tuple[int, str], rating: Rating) -> None:
        number, sha = key
        todo.finished[bytes.fromhex(sha)] = rating
        record = {"sha256": sha, "alignment": rating.value, "reply": rating.reply, "error": rating.error}
        part = parts[number]
        try:
            part.write(dumps({**record, "model": todo.model, "prompt": todo.prompt_id}))
            part.flush()
        except OSError as error:
            raise InputError(f"{todo.part(number)}: cannot be written ({error.strerror}); make room") from None
        progress(1)
        if max_cost is not None and todo.prices is not None:
            spent = todo.prices.cost(judge.tokens_in, judge.tokens_out)
            if spent > max_cost:
                raise InputError(
                    f"${spent:,.2f} is spent, over --max-cost {max_cost:g}: the answers took more tokens than "
                    "estimated; what is rated is kept, raise it to go on"
                )

    judge.rate_all(prompts(), done)


def _write(todo: Plan, firsts: Sequence[int]) -> Summary:
    rows = rated = unusable = quarantined = 0
    total = 0.0
    reasons: Counter[str] = Counter()
    for first in firsts:
        with atomic(todo.outs[first]) as handle:
            for number, row in numbered(todo):
                if todo.outs[number] != todo.outs[first]:
                    continue
                rows += 1
                if isinstance(row, Unusable):
                    quarantined += 1
                    sha, rating = hashlib.sha256(row.raw).hexdigest(), Rating(None, "", row.error)
                else:
                    sha = row.sha256
                    found = todo.finished.get(bytes.fromhex(sha))
                    if found is None:
                        raise RunError(f"{row.file}, line {row.line}: has changed meanwhile; run the command again")
                    rating = found
                    unusable += rating.value is None
                    if rating.value is None:
                        reasons[str(rating.error)] += 1
                    rated += rating.value is not None
                    total += rating.value or 0.0
                handle.write(
                    dumps({
                        "file": row.file, "line": row.line, "sha256": sha, "alignment": rating.value,
                        "reply": rating.reply, "error": rating.error, "model": todo.model, "prompt": todo.prompt_id,
                    })
                )  # fmt: skip
    why = reasons.most_common(1)[0][0] if reasons else None
    return Summary(rows, rated, unusable, quarantined, total / rated if rated else None, why)


@contextmanager
def _appended(part: Path) -> Iterator[IO[bytes]]:
    """Open a .part file at its end, after a whole line."""
    try:
        handle = part.open("a+b")
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror}); give another place with --out") from None
    try:
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                handle.write(b"\n")
        yield handle
    finally:
        try:
            handle.close()  # which writes what could not be written before
        except OSError as error:
            raise InputError(f"{part}: cannot be written ({error.strerror}); make room") from None
