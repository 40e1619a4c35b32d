"""The gate's verdict: what stands in it, and what each of its parts and conditions comes to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

from geofilter.run.power import FEW, TOO_FEW

FORMAT = 2
ALL = "all rows"
NEW = "new rows"
"""all that are counted, where the rows of a baseline are not"""
SMALL = "other small values"
"""of a field: those with too few rows to be judged alone, together"""


class GatePart(TypedDict):
    """Some of the rows, which must pass alone: all of them, those of a file, or of a value of a field."""

    name: str
    rows: int
    flagged: int
    share: float
    interval: list[float]
    """95 % interval of the share, see `stats.share_interval`"""
    too_few: bool
    """it has fewer rows than --min-rows, so its share is shown and not judged"""
    passed: bool


class GatePower(TypedDict):
    """What a bank is worth on these rows, see `power.assess`."""

    bank: str
    verdict: str
    """one of `power.VERDICTS`"""
    chance: float


class GateSettings(TypedDict):
    """What of the verdict's options a settings file decided, which may have come with the data."""

    file: str
    values: dict[str, Any]
    """by option, as it is typed"""


class GateRow(TypedDict):
    """A flagged row."""

    file: str
    line: int
    """1-based"""
    sha256: str
    """of the row's bytes"""
    bank: str
    """that gives it its score"""
    percentile: float
    """of ordinary chat"""
    score: float
    reason: str
    """its beginning, on one line"""


class GateBaseline(TypedDict):
    """An accepted earlier run, of which no row is counted again."""

    run: str
    known: int
    """scored rows with the bytes of one of its scored rows"""
    new: int
    """the other scored rows, which are counted"""
    known_quarantined: int
    """rows that could not be scored, with the bytes of one of its rows"""
    differs: list[str]
    """how it was scored otherwise, in words"""


class GateVerdict(TypedDict):
    """The verdict on a run; with a baseline its counts are of new rows, but for `passed_over`, `not_scanned` and
    `power`.
    """

    format: int
    passed: bool
    reasons: list[str]
    """why not, one sentence each"""
    threshold: float
    """percentile of ordinary chat from which on a row is flagged"""
    max_flagged: str
    """as it was given, 5% or a number of rows; it holds for all rows, and for each part alone"""
    by: str | None
    """field whose values are the parts; None where files are"""
    min_rows: int
    """of a value of the field, to be judged alone by its share"""
    parts: list[GatePart]
    """all rows first, then each file or each value of the field, then small values together"""
    highest: list[GateRow]
    """of a verdict that is not passed, the highest score first; of parts that did not pass, where some did not"""
    quarantined: int
    """rows that could not be scored, and were not checked"""
    max_quarantined: int
    not_scanned: int
    """rows that --limit left out; none may be"""
    power: list[GatePower]
    required: bool
    """whether a bank must react"""
    run: str
    data: list[str]
    baseline: GateBaseline | None
    scorer: str
    passed_over: int
    """rows that --only left out, and were not checked"""
    left_out: list[str]
    """features that count nothing, in words"""
    learnt_from: int
    """scored rows that a bank of the run was learnt from: they are counted like the others"""
    settings: GateSettings | None
    """None where all options were typed or at their default"""
    reading: dict[str, Any]
    """options of the scan that are not at their default and say which text of a row is scored"""
    windowed: int
    """scored rows longer than --max-tokens, which were read in several windows"""
    partly_read: int
    """scored rows of which some response token was not read at all, see `reader.OUTLIER_NORM`"""
    truncated: int
    """rows that are one of these, or both"""
    max_truncated: int | None
    """how many of them may be; None where any number may"""


class Outcome(NamedTuple):
    """What a part or a condition comes to."""

    of: str
    """flagged, quarantined, truncated, limit or power"""
    name: str
    """of the part; of a condition the same again"""
    failed: str
    """why it is not met, in a sentence; empty where it is"""
    unjudged: str
    """why it was not judged, likewise"""


def outcomes(verdict: GateVerdict) -> Iterator[Outcome]:
    """Each part and each condition of a verdict, in the order in which its reasons stand."""
    for part in verdict["parts"]:
        yield Outcome("flagged", part["name"], _too_many(verdict, part), _too_few(verdict, part))
    quarantined = verdict["quarantined"] > verdict["max_quarantined"]
    yield Outcome("quarantined", "quarantined", _unscored(verdict) if quarantined else "", "")
    most = verdict["max_truncated"]
    said, asked = "", "any number of rows may be longer than --max-tokens: --max-truncated is not given"
    if most is not None and verdict["truncated"] > most:
        said = (
            f"{verdict['truncated']:,} rows are longer than --max-tokens, or have response tokens that were not read; "
            f"--max-truncated allows {most:,}"
        )
    yield Outcome("truncated", "truncated", said, asked if most is None else "")
    left = verdict["not_scanned"]
    said = f"{left:,} rows were left out by --limit, so they were not checked; scan all of them" if left else ""
    yield Outcome("limit", "limit", said, "")
    required = verdict["required"]
    yield Outcome("power", "power", _no_power(verdict) if required else "", "" if required else _POWER)


_POWER = "a bank need not react to the rows: --require-power is not given"


def _too_many(verdict: GateVerdict, part: GatePart) -> str:
    if part["passed"]:
        return ""
    return (
        f"{part['name']}: {part['flagged']:,} of {part['rows']:,} rows ({part['share']:.1%}) are at or above the "
        f"{verdict['threshold']:.1%} percentile of ordinary chat; {verdict['max_flagged']} may be"
    )


def _too_few(verdict: GateVerdict, part: GatePart) -> str:
    if not part["too_few"]:
        return ""
    counted_in = verdict["parts"][0]["name"] if part["name"] == SMALL else SMALL
    return f"fewer than {verdict['min_rows']:,} rows, too few to be judged alone; counted in {counted_in}"


def _unscored(verdict: GateVerdict) -> str:
    return (
        f"{verdict['quarantined']:,} rows could not be scored, so they were not checked; --max-quarantined allows "
        f"{verdict['max_quarantined']:,}"
    )


def _no_power(verdict: GateVerdict) -> str:
    said = {of["verdict"] for of in verdict["power"]}
    if said == {TOO_FEW}:
        return f"too few rows to say whether a bank reacts to them; at least {FEW} are needed"
    return "" if "reacts" in said else "no bank reacts to these rows, so that nothing is flagged says little"
