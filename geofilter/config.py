"""Options of a scan, the fingerprint they give a run, and the settings file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.fields import Fields, check

DTYPES = ("auto", "float32", "bfloat16", "float16")
SAE_DTYPES = ("float32", "bfloat16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
SCORERS = ("ridge", "contrast", "nearest", "activation", "dense", "length", "random")
DEFAULT_SCORER = "ridge"
BUILT_IN = {
    "toxic-text": "insult, malice and dehumanising statements against neutral rewrites; for toxic text, "
    "not for subtly misaligned answers",
    "harmful-answers": "harmful against sound answers to the same question, forty topics",
}
"""the built-in banks"""


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """Which target: a named one, or any model with any SAE. `target.resolve` finds it."""

    model: str | None = None
    """alias, hub id or folder"""
    sae: str | None = None
    """RELEASE/SAE_ID, ORG/REPO/FOLDER or a SAELens folder; None for a named target's own"""
    layer: int | None = None
    """of a named target"""
    width: str | None = None
    """of a named target's SAE, as `geofilter targets` spells it"""
    revision: str | None = None
    """commit, tag or branch of the model's repository"""
    sae_revision: str | None = None
    """of the SAE's repository"""
    llama_scope_gate: str = "saelens"
    """saelens or upstream, see `releases.published`"""
    allow_other_model: bool = False
    """take an SAE that says it was trained on another model"""

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

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; with `device_map` the layers are spread and this is left at auto"""
    dtype: str = "auto"
    """of the model: float32 on the CPU and bfloat16 on a GPU, or float32, bfloat16, float16"""
    sae_dtype: str = "float32"
    """of the stored encoder: float32, or bfloat16 for half the memory; it computes in float32 either way"""
    device_map: str | None = None
    """transformers' device_map (auto, balanced, sequential): spread a model over several GPUs"""

    def __post_init__(self) -> None:
        """Check choices.

        Raises:
            InputError: a value that is not offered.
        """
        _one_of("--dtype", self.dtype, DTYPES)
        _one_of("--sae-dtype", self.sae_dtype, SAE_DTYPES)
        if self.device_map is not None:
            _one_of("--device-map", self.device_map, DEVICE_MAPS)
            if self.device != "auto":
                raise InputError(f"--device {self.device}: --device-map chooses the devices; leave one of them out")


def precision(dtype: str, sae_dtype: str) -> str:
    """How the numbers of a target are read, as a name: `float32`, `bfloat16-sae-bfloat16` and so on."""
    return dtype if sae_dtype == "float32" else f"{dtype}-sae-{sae_dtype}"


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value}: use {', '.join(allowed[:-1])} or {allowed[-1]}")


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """What a scan computes. Everything here but banks, scorer and excluded features decides the stored features."""

    data: tuple[str, ...]
    target: TargetChoice
    loading: Loading = Loading()
    banks: tuple[str, ...] = ()
    """bank names or folders; empty means the built-in ones"""
    scorer: str = DEFAULT_SCORER
    exclude_features: tuple[str, ...] = ()
    """features that count nothing, see `excluded`"""
    system: str = "keep"
    """system turns: keep, or fold into the first user turn, for templates that know none"""
    max_tokens: int = 1024
    """tokens of one row, prompt included; a longer row is cut, its response kept"""
    limit: int | None = None
    """rows read from each file"""
    shard_rows: int = 1000
    """rows in a shard, the unit of resume"""
    on_error: str = "quarantine"
    fields: Fields = field(default_factory=dict, hash=False)
    """columns of rows of no known shape, see `fields.Fields`"""
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """where a file of `data` was made from, for the manifest; see `rows.gather`"""

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
        _one_of("--on-error", self.on_error, ("quarantine", "fail"))
        _one_of("--system", self.system, ("keep", "fold"))
        check(self.fields)
        for text in self.exclude_features:
            excluded(text)


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
