"""Options: of a target, of loading it, of a scan; with their defaults, and their help on the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.fields import Fields, check, parse, written
from geofilter.rows.reading import TRAIN, Reading, parse_only
from geofilter.text import size

DTYPES = ("auto", "float32", "bfloat16", "float16")
SAE_DTYPES = ("float32", "bfloat16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
SYSTEM = ("keep", "fold")
ON_ERROR = ("quarantine", "fail")
PAIRS = ("chosen", "difference")
"""of rows of preferences: the chosen answer alone is scored, or rows are ranked by chosen less rejected"""
SCORERS = ("ridge", "contrast", "nearest", "activation", "dense", "length", "random")
"""what `bank.scorer.Scorer` computes; every other list of scorers is made of this one"""
CONTROLS = ("length", "random")
"""scorers that know no bank"""
BANK_SCORERS = tuple(scorer for scorer in SCORERS if scorer not in CONTROLS)
DEFAULT_SCORER = "ridge"
BUILT_IN = {
    "toxic-text": "insult, malice and dehumanising statements against neutral rewrites; for toxic text, "
    "not for subtly misaligned answers",
    "harmful-answers": "harmful against sound answers to the same question, forty topics",
}
"""the built-in banks"""
FLAGGED = 0.99
"""percentile from which a row counts as flagged; ordinary chat has 1 % of such rows for one bank"""
MAX_FLAGGED = "5%"
"""of the rows that the gate lets pass; two banks flag about 2 % of ordinary chat"""
MIN_ROWS = 20
"""of a part that the gate judges by its share: one flagged row of them is 5 %"""
BANK_SIZE = 100
"""toxic features, and aligned ones, that a bank names"""
TARGET, ROWS, SCORE, RUN, MEMORY = "Target", "Rows", "Score", "Run", "Memory"
"""headings of options in help; a configuration's stand in this order"""


@dataclass(frozen=True, slots=True)
class Option:
    """How a field of a configuration is offered on the command line: its help stands here and nowhere else."""

    help: str
    panel: str
    """heading of its group in help"""
    name: str = ""
    """what the option is called, if not as the field"""
    values: tuple[str, ...] = ()
    """offered in completion"""
    flag: bool = False
    """on when it is given, and has no --no- form"""
    metavar: str = ""
    parse: Callable[[str | None], Any] | None = None
    """makes the field's value of what was typed"""


def option(text: str, panel: str, **more: Any) -> dict[str, Option]:
    """Make the metadata of a field that is an option; a tuple is an option that may be repeated.

    Args:
        text: its help.
        more: see `Option`.
    """
    return {"option": Option(text, panel, **more)}


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """Which target: a named one, or any model with any SAE. `target.resolve` finds it."""

    model: str | None = field(
        default=None,
        metadata=option("Name (see `geofilter targets`), Hugging Face id, model folder or GGUF file.", TARGET),
    )
    sae: str | None = field(
        default=None,
        metadata=option(
            "RELEASE/SAE_ID of sae-lens, ORG/REPO/FOLDER, a folder, or the name of the target that the model was "
            "fine-tuned from; a named target has its own.",
            TARGET,
        ),
    )
    """None for a named target's own"""
    layer: int | None = field(default=None, metadata=option("Layer of a named target's SAE.", TARGET))
    width: str | None = field(default=None, metadata=option("Width of a named target's SAE, 16k for instance.", TARGET))
    revision: str | None = field(default=None, metadata=option("Commit, tag or branch of the model.", TARGET))
    sae_revision: str | None = field(default=None, metadata=option("Commit, tag or branch of the SAE.", TARGET))
    llama_scope_gate: str | None = field(
        default=None,
        metadata=option(
            "Llama Scope only. upstream: times decoder norm, as trained (the default); saelens: as sae-lens gates.",
            TARGET, values=("upstream", "saelens"),
        ),
    )  # fmt: skip
    """see `target.gates`; None for an SAE's own, which is upstream where there are two"""
    allow_other_model: bool = field(
        default=False,
        metadata=option("Take an SAE trained on another model, of which this is a fine-tune.", TARGET, flag=True),
    )
    adapter: str | None = field(
        default=None,
        metadata=option("LoRA adapter to merge into the model: a folder, or ORG/REPO[@REVISION] of the hub.", TARGET),
    )

    def to_json(self) -> dict[str, Any]:
        """The options that are set."""
        return {k: v for k, v in asdict(self).items() if v not in (None, False)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> TargetChoice:
        """The other way round; unknown keys are passed over."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in found.items() if k in names})


@dataclass(frozen=True, slots=True)
class Loading:
    """Where and how model and SAE are held in memory."""

    device: str = field(
        default="auto", metadata=option("auto, cpu, cuda or cuda:N.", MEMORY, values=("auto", "cpu", "cuda"))
    )
    """with `device_map` the layers are spread and this is left at auto"""
    dtype: str = field(
        default="auto",
        metadata=option(
            "Of the model: auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.", MEMORY, values=DTYPES
        ),
    )
    sae_dtype: str = field(
        default="float32",
        metadata=option(
            "Of the stored SAE encoder: float32, or bfloat16 for half the memory.", MEMORY, values=SAE_DTYPES
        ),
    )
    """it computes in float32 either way"""
    device_map: str | None = field(
        default=None,
        metadata=option(
            "Spread the layers over several GPUs: auto, balanced, balanced_low_0 or sequential.", MEMORY,
            values=DEVICE_MAPS,
        ),
    )  # fmt: skip
    max_memory: str | None = field(default=None, metadata=option(
        "That a scan may take, 12GB for instance, of the GPU or else of the machine: it then reads less at once.",
        MEMORY, metavar="SIZE"))  # fmt: skip

    def __post_init__(self) -> None:
        """Check choices.

        Raises:
            InputError: a value that is not offered, or no size.
        """
        _ = self.most_bytes
        _one_of("--dtype", self.dtype, DTYPES)
        _one_of("--sae-dtype", self.sae_dtype, SAE_DTYPES)
        if self.device_map is not None:
            _one_of("--device-map", self.device_map, DEVICE_MAPS)
            if self.device != "auto":
                raise InputError(f"--device {self.device}: --device-map chooses the devices; leave one of them out")

    @property
    def most_bytes(self) -> int | None:
        """Bytes of `max_memory`."""
        found = None if self.max_memory is None else size(self.max_memory)
        if self.max_memory is not None and found is None:
            raise InputError(f"--max-memory {self.max_memory}: not a size; write 12GB or 800MB for instance")
        return found


def precision(dtype: str, sae_dtype: str) -> str:
    """How the numbers of a target are read, as a name: `float32`, `bfloat16-sae-bfloat16` and so on."""
    return dtype if sae_dtype == "float32" else f"{dtype}-sae-{sae_dtype}"


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value}: use {', '.join(allowed[:-1])} or {allowed[-1]}")


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """What a scan computes. Everything here but banks, scorer and excluded features decides the stored features."""

    data: tuple[str, ...] = ()
    target: TargetChoice = TargetChoice()
    loading: Loading = Loading()
    banks: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Built-in bank or bank folder; repeat for several. Default: all built-in.", SCORE, name="bank",
            values=tuple(BUILT_IN),
        ),
    )  # fmt: skip
    """names or folders; empty means the built-in ones"""
    scorer: str = field(
        default=DEFAULT_SCORER,
        metadata=option(f"{', '.join(BANK_SCORERS)}, or the controls {' and '.join(CONTROLS)}.", SCORE, values=SCORERS),
    )
    exclude_features: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "A feature that is to count nothing: N, or BANK:N for one bank; repeat for several.", SCORE,
            name="exclude_feature",
        ),
    )  # fmt: skip
    """see `excluded`"""
    system: str = field(
        default="keep",
        metadata=option(
            "System turns: keep, or fold into the user turn that follows (Gemma knows none).", ROWS, values=SYSTEM
        ),
    )
    max_tokens: int = field(
        default=1024,
        metadata=option("Tokens that the model reads at once; a longer row is read in several windows.", ROWS),
    )
    """prompt included"""
    train: str = field(
        default="all",
        metadata=option(
            "Turns of the assistant that are trained: all, less those the row leaves out, or the last.", ROWS,
            values=TRAIN,
        ),
    )  # fmt: skip
    score_thinking: bool = field(
        default=False, metadata=option("Score thinking too, where the chat template shows it.", ROWS, flag=True)
    )
    pairs: str = field(default="chosen", metadata=option(
        "Of preference rows score the chosen answer alone, or rank by the difference: chosen less rejected.", ROWS,
        values=PAIRS))  # fmt: skip
    only: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Score only rows with this value, label=true for instance; the others are kept as they are. Repeat for "
            "several.", ROWS, metavar="COLUMN=VALUE",
        ),
    )  # fmt: skip
    limit: int | None = field(default=None, metadata=option("Scan only the first N rows of each file.", ROWS))
    shard_rows: int = field(default=1000, metadata=option("Rows in a shard, the unit of resume.", RUN))
    no_token_shares: bool = field(
        default=False,
        metadata=option(
            "Do not store what each token adds to a score; no words are then marked without the model.", RUN, flag=True
        ),
    )
    with_loss: bool = field(default=False, metadata=option("Store each row's loss too, as a control.", RUN, flag=True))
    on_error: str = field(
        default="quarantine", metadata=option("Rows that cannot be scored: quarantine or fail.", ROWS, values=ON_ERROR)
    )
    fields: Fields = field(
        default_factory=dict,
        hash=False,
        metadata=option(
            "Columns of rows of no known shape: prompt=question,response=meta.answer, or messages=, or text=; also "
            "system=.", ROWS, metavar="NAME=COLUMN,...", parse=parse,
        ),
    )  # fmt: skip
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """where a file of `data` was made from, for the manifest; see `rows.gather`"""
    typed: tuple[str, ...] = ()
    """options that were typed: they stand in the command that goes on with the scan, whatever a settings file says"""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: an option outside its range.
        """
        if self.max_tokens < 8:
            raise InputError(f"--max-tokens {self.max_tokens}: too small; use at least 8")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: must be at least 1")
        if self.shard_rows < 1:
            raise InputError(f"--shard-rows {self.shard_rows}: must be at least 1")
        _one_of("--on-error", self.on_error, ON_ERROR)
        _one_of("--system", self.system, SYSTEM)
        _one_of("--train", self.train, TRAIN)
        _one_of("--pairs", self.pairs, PAIRS)
        check(self.fields)
        parse_only(self.only)
        for text in self.exclude_features:
            excluded(text)

    @property
    def reading(self) -> Reading:
        """How rows are read."""
        return Reading(self.fields, self.train, self.score_thinking, parse_only(self.only))


def excluded(text: str) -> tuple[str, int]:
    """Bank and feature of an --exclude-feature: `BANK:N`, or `N`, which has "" for the bank.

    Raises:
        InputError: neither.
    """
    name, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdecimal()):
        raise InputError(f"--exclude-feature {text}: not a feature; write its number, or BANK:NUMBER")
    return name, int(number)


def fingerprint(encoding: Mapping[str, object]) -> str:
    """sha256 of a JSON-able description of everything the stored features depend on."""
    return hashlib.sha256(json.dumps(encoding, sort_keys=True).encode()).hexdigest()


def typed(config: Any, also: Collection[str] = ()) -> list[str]:
    """The options, as they are typed, that make a configuration; those at their default are left out.

    Args:
        also: options that are written at their default too.
    """
    words: list[str] = []
    for f in fields(config):
        value = getattr(config, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if is_dataclass(value):
            words += typed(value, also)
        elif isinstance(said := f.metadata.get("option"), Option) and (
            value != default or (value and (said.name or f.name) in also)
        ):
            name = f"--{(said.name or f.name).replace('_', '-')}"
            if isinstance(value, Mapping):
                words += [name, written(value)]
            elif value is True:
                words.append(name)
            else:
                words += [word for v in (value if isinstance(value, tuple) else (value,)) for word in (name, str(v))]
    return words
