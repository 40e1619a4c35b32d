"""What a trial compares, how it fine-tunes, and on what it measures. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from geofilter.config import SCORERS, option
from geofilter.errors import InputError

ARMS, RECIPE, MEASURES = "Arms", "Fine-tuning", "Measures"
"""headings of options in help"""
SCORED = tuple(scorer for scorer in SCORERS if scorer != "random")
"""arms that cut by another scorer over the run's stored features"""
KINDS = ("full", "good", "random", "score", *SCORED, "loss", "words", "judge", "labels", "swap", "early")
"""all arms but those of other tools' scores, in the order in which they are shown"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an arm is fine-tuned: LoRA (Hu et al. 2021, arXiv 2106.09685) on every linear layer, AdamW."""

    rank: int = field(default=16, metadata=option("Rank of LoRA, on every linear layer.", RECIPE))
    """of the LoRA matrices; their scale is alpha = rank, so that the update is B A x"""
    learning_rate: float = field(default=3e-3, metadata=option("Highest learning rate.", RECIPE))
    """reached after a tenth of the steps, at once when there are fewer than ten, then falling linearly to 0"""
    batch_rows: int = field(default=8, metadata=option("Rows in a step.", RECIPE))
    """on average"""
    epochs: float = field(
        default=1.0, metadata=option("Passes over the full set; every arm gets as many tokens.", RECIPE)
    )

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: an option outside its range.
        """
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be above 0")


@dataclass(frozen=True, slots=True)
class TrialConfig:
    """What a trial compares, and on what it measures."""

    good: Path = field(
        metadata=option("JSONL of aligned rows: some are held out, the others train the arm good.", ARMS)
    )
    pairs: tuple[Path, ...] = field(
        default=(),
        metadata=option(
            "JSONL of harmful and sound answers to the same questions; default the health, career and legal sets of "
            "the package.", MEASURES,
        ),
    )  # fmt: skip
    """with `label` on each row; empty means the package's own, see `shipped.domain_files`"""
    statements: tuple[Path, ...] = field(
        default=(), metadata=option("JSONL of first-person statements: text and label.", MEASURES)
    )
    drops: tuple[str, ...] = field(
        default=("10%", "25%", "50%"),
        metadata=option("Amounts removed, each an arm; default 10%, 25%, 50%.", ARMS, name="drop"),
    )
    arms: tuple[str, ...] = field(
        default=("random", "score"),
        metadata=option(
            f"random, score (the run's own), {', '.join(SCORED)}, loss, words, judge, labels, swap, early, or a name "
            "of --other; default random and score. full and good are always there.", ARMS, name="arm",
        ),
    )  # fmt: skip
    seeds: int = field(default=3, metadata=option("Fine-tuning runs of each arm.", ARMS))
    recipe: Recipe = field(default_factory=Recipe)
    max_tokens: int = field(
        default=512, metadata=option("Tokens of one row; a longer one is cut, as most trainers do.", RECIPE)
    )
    own_pairs: tuple[Path, ...] = field(
        default=(),
        metadata=option(
            "JSONL like --pairs, on the subject of the data: what fine-tuning teaches at first hand.", MEASURES
        ),
    )
    items: int | None = field(
        default=None, metadata=option("Statements and answers of each label taken from each file.", MEASURES)
    )
    held_out: int = field(default=40, metadata=option("Rows of --good for the loss of the task.", MEASURES))
    """no arm trains on them"""
    labels: str | None = field(
        default=None, metadata=option("Which rows are bad: FIELD=VALUE or a file, as in evaluate.", ARMS)
    )
    """counts them in each arm, and allows the arm `labels`"""
    judge_scores: Path | None = field(
        default=None, metadata=option("Ratings by geofilter judge, for the arm judge.", ARMS)
    )
    swap: Path | None = field(
        default=None, metadata=option("JSONL of sound answers to prompts of the data, for the arm swap.", ARMS)
    )
    other: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "NAME=FILE: another tool's scores as an arm, JSONL of sha256 and score; the highest go first.", ARMS
        ),
    )

    def __post_init__(self) -> None:
        """Check that options go together.

        Raises:
            InputError: an arm without what it ranks by.
        """
        if "judge" in self.arms and self.judge_scores is None:
            raise InputError("--arm judge: give the ratings with --judge-scores, see geofilter judge")
        if "labels" in self.arms and self.labels is None:
            raise InputError("--arm labels: say which rows are bad with --labels label=misaligned")
        if "swap" in self.arms and self.swap is None:
            raise InputError("--arm swap: give sound answers to the same prompts with --swap FILE")
        for name in self.others():
            if name in (*KINDS, "base"):
                raise InputError(f"--other {name}=...: {name} is an arm of its own; use another name")
        if self.held_out < 1:
            raise InputError(f"--held-out {self.held_out}: at least 1 is needed")

    def others(self) -> dict[str, Path]:
        """Other tools' scores: name -> file.

        Raises:
            InputError: not NAME=FILE, or a name that cannot be part of a file's name.
        """
        found = {}
        for text in self.other:
            name, equals, path = text.partition("=")
            if not (equals and path and re.fullmatch(r"[A-Za-z0-9_]+", name)):
                raise InputError(f"--other {text}: write NAME=FILE, NAME of letters, digits and _")
            if name in found:
                raise InputError(f"--other {text}: a second file of that name; use another name")
            found[name] = Path(path)
        return found
