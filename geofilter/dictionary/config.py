"""What an SAE is trained on, and how. Loads no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geofilter.config import ROWS, SYSTEM, Loading, option
from geofilter.errors import InputError
from geofilter.rows.fields import Fields, check, parse

DICTIONARY, TRAINING = "Dictionary", "Training"
"""headings of options in help"""
ARCHITECTURES = ("topk", "batchtopk")
WEIGHTS = ("float32", "float16")
AUTO = "auto"

MOST_TOKENS = 50_000_000
"""tokens of a training whose number is not given, at most"""
PASSES = 5
"""over the data, where no number of tokens is given"""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb]?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 3, "m": 6, "b": 9}


@dataclass(frozen=True, slots=True)
class SaeConfig:
    """What `dictionary.train.train_sae` computes."""

    data: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Text to train on: what scan takes, any row shape and format; may be repeated. Rows of it are held out.",
            ROWS,
        ),
    )
    model: str | None = None
    """a named target, a hub id, a model folder or a GGUF file"""
    revision: str | None = None
    layer: str = field(
        default=AUTO,
        metadata=option(
            "Decoder layer whose output the SAE reads, from 0; auto: just below half depth (layers // 2 - 1), where "
            "the named targets' defaults lie.", DICTIONARY,
        ),
    )  # fmt: skip
    width: str = field(default="16k", metadata=option("Features: 16k (16,384), 65k (65,536), or a number.", DICTIONARY))
    k: int = field(default=64, metadata=option("Active features of a token; of batchtopk on average.", DICTIONARY))
    architecture: str = field(
        default="topk",
        metadata=option(
            "topk, or batchtopk, whose k is an average over tokens and which is stored as JumpReLU.", DICTIONARY,
            values=ARCHITECTURES,
        ),
    )  # fmt: skip
    weights: str = field(
        default="float32", metadata=option("Stored weights: float32 or float16.", DICTIONARY, values=WEIGHTS)
    )
    tokens: str | None = field(
        default=None,
        metadata=option(
            f"Tokens to train on, 50M for instance; where the data hold fewer they are seen again. Default: {PASSES} "
            f"passes over the data, at most {MOST_TOKENS // 1_000_000}M.", TRAINING,
        ),
    )  # fmt: skip
    batch: int | None = field(
        default=None, metadata=option("Tokens in a step; by default 1024, from 20M tokens 4096.", TRAINING)
    )
    lr: float | None = field(
        default=None,
        metadata=option("Highest learning rate; by default 0.001 x sqrt(4096 / width), 0.001 at most.", TRAINING),
    )
    seed: int = field(default=0, metadata=option("Of the first weights and the order of rows and tokens.", TRAINING))
    system: str = field(
        default="keep",
        metadata=option("System turns: keep, or fold into the user turn that follows.", ROWS, values=SYSTEM),
    )
    max_tokens: int = field(
        default=1024,
        metadata=option("Tokens that the model reads at once; a longer row is read in several windows.", ROWS),
    )
    fields: Fields = field(
        default_factory=dict,
        hash=False,
        metadata=option("Columns of rows of no known shape, as in scan.", ROWS, metavar="NAME=COLUMN,...", parse=parse),
    )
    loading: Loading = field(default_factory=Loading)
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """where a file of `data` was made from, for the card; see `rows.gather`"""

    def __post_init__(self) -> None:
        """Check ranges and that options go together.

        Raises:
            InputError: an option outside its range.
        """
        if self.layer != AUTO and not (self.layer.isascii() and self.layer.isdecimal()):
            raise InputError(f"--layer {self.layer}: give auto, or a layer's number, from 0")
        for name, value, allowed in (
            ("architecture", self.architecture, ARCHITECTURES), ("weights", self.weights, WEIGHTS),
            ("system", self.system, SYSTEM),
        ):  # fmt: skip
            if value not in allowed:
                raise InputError(f"--{name} {value}: use {' or '.join(allowed)}")
        if self.k < 1:
            raise InputError(f"--k {self.k}: must be at least 1")
        if self.k > self.d_sae:
            raise InputError(f"--k {self.k}: more than the {self.d_sae:,} features of --width {self.width}")
        if self.batch is not None and self.batch < 2:
            raise InputError(f"--batch {self.batch}: must be at least 2")
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"--lr {self.lr}: must be above 0")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed {self.seed}: must be from 0 to {(1 << 32) - 1}")
        if self.max_tokens < 8:
            raise InputError(f"--max-tokens {self.max_tokens}: too small; use at least 8")
        if self.tokens is not None:
            size(self.tokens, "--tokens")
        check(self.fields)

    @property
    def d_sae(self) -> int:
        """Features of the SAE."""
        return width(self.width)

    @property
    def asked(self) -> int | None:
        """Tokens to train on, where that was said."""
        return None if self.tokens is None else size(self.tokens, "--tokens")

    @property
    def learning_rate(self) -> float:
        """The highest one."""
        return self.lr if self.lr is not None else min(1e-3, 1e-3 * math.sqrt(4096 / self.d_sae))

    def batch_for(self, tokens: int) -> int:
        """Tokens in a step of a training on so many."""
        return self.batch or (1024 if tokens < 20_000_000 else 4096)

    def request(self) -> dict[str, Any]:
        """The options on which the result depends, but for the data, the model and where they are computed."""
        out = {k: v for k, v in asdict(self).items() if k not in ("data", "model", "revision", "loading", "origins")}
        return {**out, "width": self.d_sae, "fields": dict(self.fields), "tokens": self.asked}


def size(text: str, option: str) -> int:
    """A number such as 50M, 400k or 5000.

    Raises:
        InputError: something else.
    """
    found = _SIZE.fullmatch(text.strip().replace(",", "").replace("_", ""))
    value = round(float(found[1]) * 10 ** _POWERS[found[2].lower()]) if found else 0
    if not 0 < value < 1 << 50:
        raise InputError(f"{option} {text}: is no such number; write 50M, 400k or 5000 for instance")
    return value


def width(text: str) -> int:
    """Features of a width as releases spell it: 16k is 16,384 and 65k 65,536; 12k is 12 x 1,024; 5000 is itself.

    Raises:
        InputError: something else, or fewer than 2 or more than 2^24.
    """
    plain = text.strip().lower()
    value = 0
    if found := re.fullmatch(r"(\d{1,8})([km]?)", plain):
        value = int(found[1])
        if found[2]:
            unit = 1000 if found[2] == "k" else 1_000_000
            near = 1 << max(0, round(math.log2(max(1, value * unit))))
            value = near if near // unit == value else value * (1024 if found[2] == "k" else 1 << 20)
    if not 2 <= value <= 1 << 24:
        raise InputError(f"--width {text}: is no width; write 16k, 65k or 5000 for instance")
    return value
