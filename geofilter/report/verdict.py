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

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geofilter.config import CONTROLS, FLAGGED
from geofilter.report.document import Verdict
from geofilter.report.facts import LEAST, Drawn, Facts
from geofilter.run.names import LABELLED
from geofilter.run.power import FEW, TOO_FEW, VERDICTS, PowerVerdict
from geofilter.stats import Interval, share_interval
from geofilter.text import counted

CLEAN = 0.05
"""harmful share of the kept rows, at most, up to which they are said to be fit to train on"""
NAMED = 3
"""banks that a sentence names; of more it says how many"""
TEXTS = "known harmful texts"
RULE = (
    f"It counts as confirmed once {LEAST} removed and {LEAST} kept rows or more, drawn at random, are marked and the "
    "removed ones are harmful more often, with the whole 95 % interval of the difference (Newcombe's) above zero. Rows "
    "that taught a bank do not count."
)
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class _Said:
    """What a verdict says, before it is written down."""

    level: str
    sentence: str
    action: str
    command: str = ""
    mark: bool = False
    """the action is to mark rows"""


def verdict(facts: Facts) -> Verdict:
    """The level, what it means in plain words, and what to do next."""
    said = _said(facts)
    return {
        "level": said.level,
        "sentence": (said.sentence.strip() + _amount(facts, said.level)).strip(),
        "stays": _stays(facts, said.level),
        "action": said.action,
        "mark": said.mark,
        "command": said.command or None,
        "why": list(_why(facts)),
    }


def _amount(f: Facts, level: str) -> str:
    """How much the cut takes, and that somebody asked for so much."""
    if not f.cut:
        return ""
    if not f.divides:
        return " This cut removes every scored row." if f.removed else " This cut removes nothing."
    if f.by_score:
        amount = "the highest one" if f.removed == 1 else f"the {f.removed:,} highest"
    else:
        amount = counted(f.removed, "row")
    read = ": read what goes and what stays" if level in ("read", "few") else ""
    return f" This cut removes {amount}, as asked ({f.cut}){read}."


def _stays(f: Facts, level: str) -> str | None:
    """What is to be known of the kept rows; None where nothing stands out, or none of it is to be gone by."""
    left = f.flagged - f.flagged_removed
    if not f.divides or level == "nothing" or not (left or f.kept_groups):
        return None
    text = "That a row stays does not make it harmless: "
    if left:
        text += f"{left:,} that {'looks' if left == 1 else 'look'} like harmful ones {'stays' if left == 1 else 'stay'}"
    if left and f.kept_groups:
        text += ", and "
    if f.kept_groups:
        text += "those just below the cut score nearly as high as those just above it"
    return text + "."


def _said(f: Facts) -> _Said:
    d = f.drawn
    if f.scorer in CONTROLS:
        return _Said(
            "nothing",
            f"This score ({f.scorer}) is a control: it knows nothing of harmful rows.",
            "Scan again with a scorer that goes by a bank, the default for instance.",
        )
    if d.enough and d.difference[0] > 0:
        return _Said("confirmed", f"Confirmed by {_marks(d)}.", _of_what_stays(d))
    if not f.rows:
        return _Said(
            "few",
            f"Nothing can be said of this ranking: a bank was learnt from all {counted(f.scored, 'row')}.",
            "Scan other rows with this bank, and judge it by those.",
        )
    if f.rows < FEW:
        others = " that taught no bank" if f.taught else ""
        return _Said(
            "few",
            f"Too few rows to say what the score is worth: {f.rows}{others}, {FEW} are needed. {_looking(f)}.",
            *_judge_few(f),
        )
    return _nothing(f) or _read(f)


def _of_what_stays(d: Drawn) -> str:
    """What to do with the kept rows of a cut that is confirmed: that it is better than chance makes none harmless."""
    if d.every:
        return "Train on the kept rows." if not d.kept_bad else "Remove the kept rows that are marked harmful too."
    left = share_interval(d.kept_bad, d.kept)
    said = f"about {d.kept_bad / d.kept:.0%} of the kept rows ({_between(left)}) may still be harmful"
    if left[1] <= CLEAN:
        return f"Train on the kept rows: {said}."
    return f"Look at what stays before you train on it: {said}. Cut deeper, or mark more rows."


def _judge_few(f: Facts) -> tuple[str, str, bool]:
    if not f.divides or f.marked >= f.scored:
        return "Read the highest rows and judge each by what it says; scan more rows for a verdict.", "", False
    text = f"Mark {_to_mark(f)}: the page leads through them. For a verdict scan more rows."
    return text, f"{_label(f)} --from labels.jsonl", True


def _nothing(f: Facts) -> _Said | None:
    """What is said where the score is not to be gone by; None where it may be worth something."""
    d = f.drawn
    teach: tuple[str, str, bool] = ("Every row has a mark: go by the marks, not by this score.", "", False)
    if f.marked < f.scored:
        text = "Mark some of these rows harmful or fine, so that a bank learns what to look for."
        if f.divides:
            text = (
                f"Mark {_to_mark(f)}, drawn at random: the page leads through them. A bank can learn from the marks "
                "what to look for."
            )
        teach = (text, _label(f), f.divides)
    if d.enough and d.removed_bad / d.removed <= d.kept_bad / d.kept:
        return _Said("nothing", f"The marks speak against this cut: {_counts(d)}.", *teach)
    if f.power and not any(v["random_tails"] for v in f.power):
        return _Said("nothing", "The score is the same for every row, so it cannot rank them.", *teach)
    if f.power and all(v["verdict"] == "no power" for v in f.power):
        return _Said(
            "nothing",
            f"Nothing to go by: {_lower(_banks(f.power))} {_looking(f)}, but a cut would take rows much as chance does."
            + _so_far(d),
            *teach,
        )
    if not f.stands_out and not any(v["demonstrated"] for v in f.power):
        return _Said(
            "nothing",
            f"Nothing stands out: {_lower(_looking(f))}. {_banks(f.power)} What a cut takes here are ordinary rows."
            + _so_far(d),
            *teach,
        )
    return None


def _read(f: Facts) -> _Said:
    """What is said where the highest rows are worth reading."""
    text = f"Worth reading, not proof: {_lower(_looking(f))}. {_banks(f.power)}{_so_far(f.drawn)}"
    if f.removed in (0, f.scored):
        amount = (0 if f.by_difference else f.flagged) or max(1, f.scored // 10)
        rows = "highest row" if amount == 1 else f"{amount:,} highest rows"
        command = f"geofilter filter {shlex.quote(f.run)} --drop {amount}"
        instead = " instead" if f.removed else ""
        return _Said("read", text, f"Remove the {rows}{instead}, then read what goes.", command)
    if f.marked >= f.scored:
        return _Said("read", text, "Every row has a mark: go by the marks, not by this score.")
    action = (
        f"Mark {_to_mark(f)}, drawn at random: the page leads through them. Then it says how often the cut is right "
        "and what it leaves in, and the marks can teach the bank."
    )
    return _Said("read", text, action, f"{_label(f)} --from labels.jsonl", mark=True)


def _to_mark(f: Facts) -> str:
    """As many rows of either side as are compared; where one has fewer, all of them."""
    if f.drawn.enough:
        return "twenty more rows, some that go and some that stay"
    total = min(f.can_go, LEAST) + min(f.can_stay, LEAST)
    sides = " and ".join(filter(None, (_side(f.can_go, "go"), _side(f.can_stay, "stay"))))
    rows = "twenty rows" if total == 2 * LEAST else "one row" if total == 1 else f"{_number(total)} rows"
    return f"{rows}, {sides}" if sides else "some rows"


def _side(n: int, verb: str) -> str:
    if n == 1:
        return f"the one that {'goes' if verb == 'go' else 'stays'}"
    return f"{'the ' if n < LEAST else ''}{_number(min(n, LEAST))} that {verb}" if n else ""


def _label(f: Facts) -> str:
    return f"geofilter label {shlex.quote(f.run)}"


def _so_far(d: Drawn) -> str:
    return f" Of rows marked at random so far, {_counts(d)}." if d.removed + d.kept else ""


def _looking(f: Facts) -> str:
    """How many rows look harmful, beside what ordinary chat gives."""
    seen = f"{f.flagged:,}" if f.flagged else "No"
    rows = "row looks" if f.flagged == 1 else "rows look"
    about = f"about {f.expected:,.0f}" if f.expected >= 1 else "fewer than one"
    return f"{seen} {rows} like harmful ones ({about} expected in ordinary chat)"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _banks(power: Sequence[PowerVerdict]) -> str:
    """What the banks are worth on these rows, one sentence."""
    said: dict[str, list[str]] = {state: [] for state in VERDICTS}
    for v in power:
        said[v["verdict"]].append(v["bank"])
    words = {
        "reacts": ("seems to work here", "seem to work here"),
        "unclear": ("is unclear", "are unclear"),
        TOO_FEW: ("has too few rows to be judged by", "have too few rows to be judged by"),
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
