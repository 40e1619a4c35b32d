"""What was found and what to do next, in a sentence and one action each, with the statistics kept for who asks why.

Levels, in the order in which they are asked for:

confirmed   rows drawn at random and marked bear it out: at least `LEAST` removed and `LEAST` kept ones have a mark, and
            the removed are harmful more often, with the whole 95 % interval of the difference above zero
few         fewer rows than a verdict can be given on, leaving out those that taught a bank
nothing     the score knows no bank, or cannot rank these rows; no bank works on them; marks drawn at random speak
            against the cut; or no more rows look harmful than ordinary chat would give
read        everything else: worth reading, and not proved
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geofilter.config import CONTROLS, FLAGGED
from geofilter.report.document import Verdict
from geofilter.run.power import FEW, PowerVerdict
from geofilter.run.store import LABELLED
from geofilter.stats import Interval, difference_interval, share_interval
from geofilter.text import counted

LEAST = 10
"""marked rows drawn at random, of the removed and of the kept, before their shares are compared"""
TO_READ = 20
"""highest rows that are to be read first"""
RARE = 0.01
"""chance under which ordinary chat is taken to give as many rows that look harmful"""
MANY = 50
"""expected rows from which on twice as many are rarer than that"""
NAMED = 3
"""banks that a sentence names; of more it says how many"""
TEXTS = "known harmful texts"
RULE = (
    f"It counts as confirmed once {LEAST} removed and {LEAST} kept rows or more, drawn at random, are marked and the "
    "removed ones are harmful more often, with the whole 95 % interval of the difference (Newcombe's) above zero. Rows "
    "that taught a bank do not count."
)
_Said = tuple[str, str, str, str | None]
"""level, sentence, action, command"""
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Marked rows of a cut that were drawn at random and taught no bank."""

    removed: int = 0
    """of them, rows that the cut removes"""
    removed_bad: int = 0
    """of these, rows marked harmful"""
    kept: int = 0
    kept_bad: int = 0
    every: bool = False
    """every row that taught no bank is marked, so that none had to be drawn"""

    @property
    def enough(self) -> bool:
        """Whether there are as many as are compared."""
        return min(self.removed, self.kept) >= LEAST

    @property
    def difference(self) -> Interval:
        """Of the harmful share of the removed rows and that of the kept ones."""
        return difference_interval(self.removed_bad, self.removed, self.kept_bad, self.kept)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verdict goes by."""

    run: str
    """folder of the run"""
    scorer: str
    cut: str
    """in words; none before any cut"""
    power: Sequence[PowerVerdict]
    scored: int
    removed: int
    taught: int
    """scored rows that a bank of the run was learnt from; all that follows leaves them out"""
    flagged: int
    """rows from the 99th percentile of ordinary chat on, see `config.FLAGGED`"""
    flagged_removed: int
    banks: int
    marked: int
    """scored rows with a mark"""
    drawn: Drawn
    labels: str = ""
    """what is said of labelled rows, see `labelled.LabelledParts`"""

    @property
    def rows(self) -> int:
        """Those that the verdict is on."""
        return self.scored - self.taught

    @property
    def expected(self) -> float:
        """Rows of as many of ordinary chat that would be flagged, at most."""
        return (1 - FLAGGED) * self.banks * self.rows

    @property
    def stands_out(self) -> bool:
        """Whether more than twice as many rows are flagged as are expected, and so many are no chance."""
        if self.flagged <= 2 * self.expected:
            return False
        # Poisson's chance of as many or more: one less that of each smaller number. Twice so many are no chance.
        if self.expected > MANY:
            return True
        below = [math.exp(-self.expected)]
        for k in range(1, self.flagged):
            below.append(below[-1] * self.expected / k)
        return 1 - math.fsum(below) < RARE


def verdict(facts: Facts) -> Verdict:
    """The level, what it means in plain words, and what to do next."""
    level, sentence, action, command = _said(facts)
    if facts.cut:
        amount = {0: " This cut removes nothing.", facts.scored: " This cut removes every scored row."}
        sentence += amount.get(facts.removed, "")
    return {"level": level, "sentence": sentence, "action": action, "command": command, "why": list(_why(facts))}


def _said(f: Facts) -> _Said:
    d = f.drawn
    if f.scorer in CONTROLS:
        return _as(
            "nothing",
            f"This score ({f.scorer}) is a control: it knows nothing of harmful rows.",
            "Scan again with a scorer that goes by a bank, the default for instance.",
        )
    if d.enough and d.difference[0] > 0:
        left = _between(share_interval(d.kept_bad, d.kept))
        return _as(
            "confirmed",
            f"Confirmed by {_marks(d)}.",
            f"Train on the kept rows; about {d.kept_bad / d.kept:.0%} of them ({left}) may still be harmful.",
        )
    if not f.rows:
        return _as(
            "few",
            f"Nothing can be said of this ranking: a bank was learnt from all {counted(f.scored, 'row')}.",
            "Scan other rows with this bank, and judge it by those.",
        )
    if f.rows < FEW:
        others = " that taught no bank" if f.taught else ""
        return _as(
            "few",
            f"Too few rows to say what the score is worth: {f.rows}{others}, {FEW} are needed. {_looking(f)}.",
            "Read the highest rows and judge each by what it says; scan more rows for a verdict.",
        )
    return _nothing(f) or _read(f)


def _nothing(f: Facts) -> _Said | None:
    """What is said where the score is not to be gone by; None where it may be worth something."""
    d = f.drawn
    if f.marked < f.scored:
        teach = ("Mark some of these rows harmful or fine, so that a bank learns what to look for.", _label(f))
    else:
        teach = ("Every row has a mark: go by the marks, not by this score.", "")
    if d.enough and d.removed_bad / d.removed <= d.kept_bad / d.kept:
        return _as("nothing", f"The marks speak against this cut: {_counts(d)}.", *teach)
    if f.power and not any(v["random_tails"] for v in f.power):
        return _as("nothing", "The score is the same for every row, so it cannot rank them.", *teach)
    if f.power and all(v["verdict"] == "no power" for v in f.power):
        return _as(
            "nothing",
            f"Nothing to go by: {_lower(_banks(f.power))} {_looking(f)}, but a cut would take rows much as chance does."
            + _so_far(d),
            *teach,
        )
    if not f.stands_out and not any(v["demonstrated"] for v in f.power):
        return _as(
            "nothing",
            f"Nothing stands out: {_lower(_looking(f))}. {_banks(f.power)} What a cut takes here are ordinary rows."
            + _so_far(d),
            *teach,
        )
    return None


def _read(f: Facts) -> _Said:
    """What is said where the highest rows are worth reading."""
    d = f.drawn
    text = f"Worth reading, not proof: {_lower(_looking(f))}. {_banks(f.power)}{_so_far(d)}"
    if f.removed in (0, f.scored):
        amount = f.flagged or max(1, f.scored // 10)
        rows = "highest row" if amount == 1 else f"{amount:,} highest rows"
        command = f"geofilter filter {shlex.quote(f.run)} --drop {amount}"
        instead = " instead" if f.removed else ""
        return _as("read", text, f"Remove the {rows}{instead}, then read what goes.", command)
    if f.marked >= f.scored:
        return _as("read", text, "Every row has a mark: go by the marks, not by this score.")
    if d.removed + d.kept and not d.enough:
        more = f"Mark more rows drawn at random, until {LEAST} removed and {LEAST} kept ones have a mark."
        return _as("read", text, more)
    n = min(TO_READ, f.removed)
    rows = f"the {n} highest rows" if n > 1 else "the highest row"
    return _as(
        "read",
        text,
        f"Read {rows}, mark each harmful or fine, and teach the bank from your marks (it needs five of each).",
        f"{_label(f)} --from labels.jsonl",
    )


def _label(f: Facts) -> str:
    return f"geofilter label {shlex.quote(f.run)}"


def _so_far(d: Drawn) -> str:
    return f" Of rows marked at random so far, {_counts(d)}." if d.removed + d.kept else ""


def _as(level: str, sentence: str, action: str, command: str = "") -> _Said:
    return level, sentence.strip(), action, command or None


def _looking(f: Facts) -> str:
    """How many rows look harmful, beside what ordinary chat gives."""
    seen = f"{f.flagged:,}" if f.flagged else "No"
    rows = "row looks" if f.flagged == 1 else "rows look"
    about = f"about {f.expected:,.0f}" if f.expected >= 1 else "fewer than one"
    return f"{seen} {rows} like harmful ones, {about} expected in ordinary chat"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _banks(power: Sequence[PowerVerdict]) -> str:
    """What the banks are worth on these rows, one sentence."""
    said: dict[str, list[str]] = {"reacts": [], "unclear": [], "no power": []}
    for v in power:
        said[v["verdict"]].append(v["bank"])
    words = {
        "reacts": ("seems to work here", "seem to work here"),
        "unclear": ("is unclear", "are unclear"),
        "no power": ("does not work here", "do not work here"),
    }
    found = {state: names for state, names in said.items() if names}
    n = len(power)
    if not found:
        return ""
    if len(found) == 1:
        ((state, names),) = found.items()
        if n == 1:
            bank = "learnt from marked rows" if names == [LABELLED] else f"of {TEXTS}, {names[0]},"
            return f"The bank {bank} {words[state][0]}."
        who = "Both" if n == 2 else f"All {_number(n)}"
        called = f", {' and '.join(names)}," if n == 2 else ""
        return f"{who} banks of {TEXTS}{called} {words[state][1]}."
    if n <= NAMED:
        parts = [f"{' and '.join(names)} {words[state][len(names) > 1]}" for state, names in found.items()]
    else:
        parts = [f"{_number(len(names))} {words[state][len(names) > 1]}" for state, names in found.items()]
    return f"Of the {_number(n)} banks of {TEXTS}, {', '.join(parts)}."


def _number(n: int) -> str:
    return _SMALL[n] if n < len(_SMALL) else f"{n:,}"


def _marks(d: Drawn) -> str:
    return f"{'the marks of every row' if d.every else 'rows drawn at random and marked'}: {_counts(d)}"


def _counts(d: Drawn) -> str:
    parts = [
        f"{bad} of {of} {what} {'is' if bad == 1 else 'are'} harmful"
        for bad, of, what in ((d.removed_bad, d.removed, "removed"), (d.kept_bad, d.kept, "kept"))
        if of
    ]
    return ", ".join(parts)


def _between(interval: Interval) -> str:
    return f"{interval[0]:.0%} to {interval[1]:.0%}"


def _why(f: Facts) -> Iterator[str]:
    """The statistics behind it."""
    if f.scorer not in CONTROLS and f.rows:
        others = f" ({f.taught:,} more taught a bank and do not count)" if f.taught else ""
        text = (
            f"{f.flagged:,} of {counted(f.rows, 'row')}{others} score at or over the {FLAGGED * 100:.0f}th percentile "
            f"of ordinary chat under their bank; of as many of ordinary chat at most {f.expected:,.1f} would with "
            f"{counted(f.banks, 'bank')}."
        )
        if f.cut:
            text += f" {f.flagged_removed:,} of them are among the {f.removed:,} that the cut ({f.cut}) removes."
        yield text
    yield from (v["text"] for v in f.power)
    if any(v["demonstrated"] for v in f.power):
        yield "That a bank seems to work is no proof; docs/results.md of geofilter has how often it is wrong."
    if f.labels:
        yield f.labels
    d = f.drawn
    for bad, of, what in ((d.removed_bad, d.removed, "removed"), (d.kept_bad, d.kept, "kept")):
        if of:
            marked = f"marked {what} rows" if d.every else f"{what} rows drawn at random and marked"
            yield f"Of {of} {marked} {bad} are harmful: {_between(share_interval(bad, of))} (95 % interval)."
    if d.enough:
        low, high = d.difference
        yield f"The removed rows are harmful more often by {low:+.0%} to {high:+.0%} (95 % interval)."
    yield RULE
