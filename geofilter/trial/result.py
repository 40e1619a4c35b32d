"""What a trial says: the record of each arm (arms/*.json), and trial.json."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from geofilter.run.manifest import InputFile

FORMAT = 2

FeatureFigures = dict[str, dict[str, float]]
"""for each bank toxic_activation, aligned_activation and closeness, see `measures.feature_change`"""


class Training(TypedDict):
    """How an arm was fine-tuned, see `tune.tune`."""

    steps: int
    tokens: int
    rows_seen: int
    first_loss: float
    """mean over the first tenth of the steps"""
    last_loss: float


class ArmRecord(TypedDict):
    """One arm, or the model as it is (`base`); a value for each item that is measured."""

    arm: str
    drop: str
    seed: int | None
    source: NotRequired[str]
    """hash of the file that this arm alone depends on"""
    rows: NotRequired[int]
    removed: NotRequired[int]
    bad_rows: NotRequired[int]
    bad_removed: NotRequired[int]
    swapped: NotRequired[int]
    """removed rows that another answer to their prompt stands in for"""
    training: NotRequired[Training]
    statements: NotRequired[list[float]]
    pairs: NotRequired[list[float]]
    own_pairs: NotRequired[list[float]]
    loss: list[float]
    features: FeatureFigures
    answers: NotRequired[list[dict[str, Any]]]
    """to open questions, see `freeform.FreeForm.ask`"""
    seconds: dict[str, float]


class MeasureRow(TypedDict):
    """An arm under one measure, means over seeds."""

    arm: str
    drop: str
    value: float
    misalignment: float
    """value less that of the `good` arm of the same seed"""
    interval: list[float] | None
    """Student's, over seeds"""
    by_seed: list[float]
    reduction: NotRequired[float]
    """1 - misalignment / that of the full arm"""
    reduction_interval: NotRequired[list[float] | None]
    """bootstrap over seeds and items"""
    beyond_random: NotRequired[float]
    beyond_random_interval: NotRequired[list[float] | None]


class Measure(TypedDict):
    """All arms under one measure."""

    text: str
    base: float
    """of the model as it is"""
    measurable: bool
    """the interval of the full arm lies above 0; else no reduction is given"""
    rows: list[MeasureRow]


class Change(TypedDict):
    """A figure before and after fine-tuning."""

    before: float
    after: float


class ArmAbout(TypedDict):
    """What of an arm does not depend on the measure; means over seeds."""

    arm: str
    drop: str
    loss: float
    loss_change: float
    features: dict[str, dict[str, Change]]
    rows: NotRequired[float]
    removed: NotRequired[float]
    bad_rows: NotRequired[float]
    bad_removed: NotRequired[float]
    swapped: NotRequired[float]


class TrialBudget(TypedDict):
    """What every arm was given."""

    steps: int
    response_tokens: int


class Paper(TypedDict):
    """The figure of Minegishi et al. (arXiv 2605.00842)."""

    reduction: float
    drop: str


class BaseFigures(TypedDict):
    """The model as it is."""

    loss: float
    features: FeatureFigures


class TrialAbout(TypedDict):
    """What was compared on what."""

    format: int
    geofilter: str
    """version"""
    run: str
    target: str
    data: list[InputFile]
    scorer: str
    banks: list[str]
    options: dict[str, Any]
    """see `config.TrialConfig`"""
    dtype: str
    free_form: dict[str, Any] | None
    """see `freeform.FreeForm.about`"""


class TrialResult(TrialAbout):
    """trial.json."""

    budget: TrialBudget
    seeds: list[int]
    paper: Paper
    measures: dict[str, Measure]
    arms: list[ArmAbout]
    base: BaseFigures
    per_arm: list[dict[str, Any]]
    """the records without what is measured on each item"""
