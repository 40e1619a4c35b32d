"""What a report says: report.json, whose form docs/report.md describes and data/report.schema.json checks."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from geofilter.bank.about import BankAbout, Like
from geofilter.bank.known import KnownRow
from geofilter.cut.mask import MaskReport
from geofilter.cut.swap import SwapReport
from geofilter.run.manifest import Counts, Encoding, NearFeature, Quarantined, RowScore, TargetAbout
from geofilter.run.marks import Mark
from geofilter.run.power import PowerVerdict

SCHEMA = 4


class ReportCounts(Counts):
    """Rows of the run and of the cut."""

    removed: int
    kept: int
    flagged: int
    not_scanned: int


class WrittenTo(TypedDict):
    """Where an input's rows went."""

    kept: str
    removed: str
    quarantined: str


class FileReport(TypedDict):
    """One input and its outputs."""

    input: str
    rows: int
    not_scanned: int
    kept: int
    removed: int
    quarantined: int
    outputs: WrittenTo


class ReplacedReport(TypedDict):
    """An input whose removed rows were answered again, see `answers.replace`."""

    input: str
    output: str
    kept: int
    replaced: int
    """removed rows that were answered and put back"""
    left_out: int
    """removed rows without an answer"""


class PairsReport(TypedDict):
    """Preferences of which both answers were scored."""

    rows: int
    worse: int
    """whose chosen answer scores higher than the rejected one"""
    removed: int
    removed_worse: int
    swapped: NotRequired[SwapReport]
    """these with their answers exchanged, where that was asked for"""


class Histogram(TypedDict):
    """What the rows are ranked by, in bins of equal width."""

    edges: list[float]
    kept: list[float]
    removed: list[float]
    ordinary_chat: list[float]


class RowsPart(TypedDict):
    """A part of the rows, see `composition.Dimension`."""

    name: str
    rows: int
    removed: int


class LabelsReport(TypedDict):
    """The labelled rows of the cut beside the others, see `labelled.LabelledParts`."""

    parts: list[RowsPart]
    learnt_from: int
    """scored rows that a bank of the run was learnt from"""
    text: str


class ShownExcerpt(TypedDict):
    """A piece of a bank's rows, see `about.Excerpt`."""

    text: str
    strong: list[list[int]]
    bad: bool


class FeatureBehind(TypedDict):
    """A feature of the removed rows' own that they score by."""

    bank: str
    feature: int
    label: str
    """words it is strongest on in the bank's texts"""
    words: list[str]
    """words of these rows that it is strongest on and that stand out there"""
    share: float
    """summed over the removed rows that name it"""
    rows: int
    """that name it"""
    times: float | None
    """as strong in them as in ordinary chat, weighted by share; None where ordinary chat never has it"""
    toxic: bool
    near: NearFeature | None
    """see `manifest.NamedFeature`"""
    examples: list[ShownExcerpt]
    link: str | None
    """its page on neuronpedia.org"""


class Explained(TypedDict):
    """How much of the removed rows' scores is explained by what is named, see `manifest.RowScore`."""

    median: float
    half: float
    """share of the rows of which half is, or more"""


class MeanScore(TypedDict):
    """Mean scores, before and after."""

    all: float
    kept: float | None
    kept_after_random_removal: float


class Flagged(TypedDict):
    """Rows from the 99th percentile of ordinary chat on."""

    all: int
    kept: int
    kept_after_random_removal: float


class StyleMeans(TypedDict):
    """Mean of a column of `style.STYLE`."""

    removed: float | None
    kept: float | None


class Controls(TypedDict):
    """The cut beside a random removal of equal size, and its overlap with cuts by length and format."""

    mean_score: MeanScore
    flagged: Flagged
    removed_share: float
    overlap_with_equal_cut_by: dict[str, float]
    style: dict[str, StyleMeans]


class ShownRow(RowScore):
    """A scored row with its texts."""

    rank: int
    removed: bool
    group: NotRequired[int]
    """number of its group, see `groups`"""
    reason: str
    prompt: str
    response: str
    like: NotRequired[Like]
    """the labelled rows of its bank that it is most like: which of `ReportDocument.examples`"""
    rejected: NotRequired[str]
    """the rejected answer of a preference, where both were scored"""
    spans: NotRequired[list[Mark]]
    """in characters of the shown response; absent where no token shares are stored under the row's bank"""


Examples = dict[str, dict[str, KnownRow]]
"""labelled rows by bank, and by their number in it"""


class GroupFeature(TypedDict):
    """A feature that is common in a group."""

    feature: int
    label: str


class GroupSource(TypedDict):
    """Where rows of a group say they come from."""

    name: str
    rows: int


class GroupReport(TypedDict):
    """Rows that are about the same, see `groups.groups`."""

    number: int
    removed: bool
    name: str
    """words that they use more than others; empty where none stands out"""
    rows: int
    topic: str | None
    """the one that most of them are closest to"""
    sources: list[GroupSource]
    features: list[GroupFeature]
    examples: list[int]
    """ranks of the rows nearest to its middle"""
    duplicates: int
    """of the rows, near-duplicates of a higher one"""


class MadeWith(TypedDict):
    """The run, and what it was made with."""

    geofilter: str
    run: str
    scores: str
    """sha256 of its score arrays"""
    scored_on: str
    """the day, in UTC"""
    target: TargetAbout
    scorer: str
    encoding: Encoding
    read: list[str]
    """what people are told of how the rows were read"""
    versions: dict[str, str]
    seconds: dict[str, float]
    banks: list[BankAbout]
    seed: int


class Verdict(TypedDict):
    """What was found and what to do, see `verdict.verdict`."""

    level: str
    """few, read, confirmed or nothing"""
    sentence: str
    stays: str | None
    """what is to be known of the kept rows"""
    action: str
    mark: bool
    """the action is to mark rows, which the page leads through"""
    command: str | None
    """that does it; None where there is none"""
    why: list[str]
    """the statistics behind it, a paragraph each"""


class ReportDocument(TypedDict):
    """report.json."""

    schema: int
    verdict: Verdict
    headline: str
    cut: str
    ranked_by: str
    """score, or difference: of preferences chosen less rejected"""
    cutoff_score: float | None
    """lowest of it that was removed"""
    counts: ReportCounts
    files: list[FileReport]
    replaced: NotRequired[list[ReplacedReport]]
    """once removed rows were answered again"""
    tail: str
    power: list[PowerVerdict]
    histogram: Histogram
    composition: dict[str, list[RowsPart]]
    features: list[FeatureBehind]
    explained: Explained | None
    """None where nothing was removed, or the scorer has no feature shares"""
    labels: NotRequired[LabelsReport]
    """where rows have labels, or a bank was learnt from some of them"""
    mask: NotRequired[MaskReport]
    """what the loss should leave out of kept rows, where that was asked for"""
    pairs: NotRequired[PairsReport]
    """of a run with --pairs difference"""
    controls: Controls
    by_bank: dict[str, int]
    groups: list[GroupReport]
    """of the removed rows, then of the highest kept ones, the largest first"""
    examples: Examples
    """by bank and number: the labelled rows that shown ones are like"""
    removed_rows: list[ShownRow]
    nearest_kept_rows: list[ShownRow]
    removed_rows_shown: int
    quarantine: list[Quarantined]
    made_with: MadeWith
