"""What is written of a bank: bank.json, and what a run's manifest says of the banks it was scored with."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from geofilter.bank.feature_names import Names

MIXED = 0.1
"""share of a bank's rows from which on it is one of answers and of bare texts, too"""


class BankTarget(TypedDict):
    """The target that a bank belongs to."""

    name: str
    fingerprint: str
    hook: str
    d_sae: int
    llama_scope_gate: NotRequired[str]
    """of an SAE of Llama Scope; banks of earlier versions do not say"""


class Sides(TypedDict):
    """Labelled rows of each kind."""

    bad: int
    good: int


class Source(TypedDict, total=False):
    """Where a bank's rows come from: a file, or labels of a run's own rows."""

    file: str
    sha256: str
    rows: int
    fields: dict[str, str]
    """columns of the rows, see `rows.fields.Fields`"""
    bad: int
    good: int
    by: dict[str, int]
    """who labelled how many"""


class RandomBanks(TypedDict):
    """AUROC of banks that know nothing, on the same held-out rows."""

    mean: float
    best_either_way: float


class BankCheck(TypedDict):
    """What a bank is worth on held-out labelled rows, see `validate.validate`; AUROCs but for the counts."""

    rows: Sides
    auroc: float
    interval: list[float]
    contrast: float
    bag_of_words: float
    style: float
    shorter_is_worse: float
    random_banks: RandomBanks
    weak: bool


class Excerpt(TypedDict):
    """A piece of a bank's own rows in which a feature is strongest."""

    text: str
    strong: list[list[int]]
    """[start, end) of the strongest tokens in it"""
    bad: bool
    """whether its row is one of the bad ones"""
    topic: str


class TraitAbout(TypedDict):
    """The sentence that a bank was made from, and how a model's answers were made of it, see `build.trait`."""

    sentence: str
    prompts: int
    """version of the system prompts"""
    generator: str
    """the model that has answered"""
    answers_per_question: int
    """of each side"""
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    asked: Sides
    """answers given under prompts that show the trait, and under their opposites"""
    kept: Sides
    judge: NotRequired[str]
    """the model that has rated them; without one their likelihood has decided"""


class BankMeta(TypedDict, total=False):
    """What bank.json says besides the names of target, topics and features."""

    description: str
    dtype: str | None
    """how its numbers were read, see `config.precision`"""
    max_tokens: int
    system: str
    prompted: float
    """share of its labelled rows that have a prompt"""
    sources: dict[str, Source]
    trait: TraitAbout
    """of a bank that was made from a sentence"""
    created: str
    """ISO 8601"""
    geofilter: str
    """version"""
    priors: list[str]
    """banks whose weights it builds on"""
    evaluation: BankCheck
    examples: list[list[Excerpt]]
    """for each toxic feature up to two"""
    names: Names
    """of features, in the place of those that ship with the package"""


class ExcludedFeature(TypedDict):
    """A feature that counts nothing."""

    feature: int
    label: str


class BankAbout(TypedDict):
    """What a run's manifest says of a bank."""

    name: str
    toxic_features: int
    aligned_features: int
    reference_rows: int
    topics: list[str]
    excluded_features: list[ExcludedFeature]
    description: NotRequired[str | None]
    created: NotRequired[str | None]
    sources: dict[str, Source] | None
    evaluation: NotRequired[BankCheck | None]
    path: str | None
    """its folder; None for a built-in one, which is found by its name"""
    files: dict[str, str]
    """sha256 of its files"""


class Near(TypedDict):
    """A labelled row of a bank that a row is like."""

    row: int
    """its place among the bank's rows, see `known.KnownRows`"""
    similarity: float
    """cosine in [-1, 1], see `space`"""


class Like(TypedDict):
    """The labelled rows that a row is most like: the nearest bad one and the nearest good one."""

    bad: NotRequired[Near]
    good: NotRequired[Near]
