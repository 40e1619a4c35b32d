"""A bank: toxic and aligned features of one target, the background they are judged against, and where all
of it came from. A folder of `bank.json` (readable) and `bank.safetensors` (arrays)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from geofilter.arrays import F32, I32, Bools, Digests, array_sum, check_array
from geofilter.bank.about import MIXED, BankAbout, BankMeta, BankTarget, Excerpt, ExcludedFeature
from geofilter.bank.background import COMMON, CONTENT, OFTENER, Background
from geofilter.bank.check import check_arrays, check_meta, made_for_another
from geofilter.bank.feature_names import FeatureName, shipped_names, usable
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import Closeness
from geofilter.bank.known import KnownRows
from geofilter.bank.label_text import escaped, readable
from geofilter.bank.topics import Topics
from geofilter.errors import BankError
from geofilter.files import (
    as_bytes,
    file_sha256,
    from_json,
    json_text,
    ordinary,
    own_bytes,
)
from geofilter.sums import SEAL, sealed
from geofilter.text import one_line
from geofilter.together import Together
from geofilter.typed import check_typed

FORMAT = 3
ABOUT = "bank.json"
ARRAYS = "bank.safetensors"
"""in a bank's folder"""
LEARNT_FROM, RATE, CONTENT_ON = "learnt_from.content", "rate", "content"
"""in bank.safetensors, but for banks of earlier versions"""
CLOSENESS = tuple(field.name for field in fields(Closeness))


@dataclass(frozen=True, eq=False)
class Bank:
    """See the module docstring; `meta` holds what is written to bank.json."""

    name: str
    target: BankTarget
    """name, fingerprint, hook and d_sae of the target it belongs to"""
    toxic: I32
    """(m,) feature ids, largest effect first"""
    aligned: I32
    effect: F32
    """(d_sae,) standardised mean difference bad - good of every feature"""
    weights: F32
    """(d_sae,) weight of every feature's log activation, learnt from the labelled rows, see `ridge`"""
    shuffled: F32
    """(d_sae, 20) the same, learnt from shuffled labels: the null of `weights`"""
    closeness: Closeness
    random: F32
    """(d_sae, 20) contrast weights of random banks of the same size: the null of all other scorers"""
    background: Background
    rate: F32
    """(d_sae,) share of the response tokens of ordinary chat on which each feature fires; 0 in a bank of an earlier
    version"""
    content: F32
    """(d_sae,) part of each feature's squared activation that falls on words with content, see `words`; 1 where it is
    not known"""
    dense: F32
    """(d_in,) unit difference of mean residuals, bad - good"""
    reference: Pooled
    """ordinary rows that percentiles are counted in"""
    topics: Topics
    """kinds of harm that its bad rows are told apart into"""
    labels: Sequence[str] = field(default_factory=list)
    """per feature: its words in the texts the bank was built from, see `build.words`; "" where it has none"""
    meta: BankMeta = field(default_factory=lambda: BankMeta())
    """sources, options, evaluation; examples: for each toxic feature up to two, see `build.excerpts`"""
    excluded: Sequence[int] = ()
    """features that count nothing, see `excluding`"""
    learnt_from: Digests = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    """of the content of the rows that it, or a bank it builds on, was learnt from; none for a built-in bank"""
    rows: KnownRows | None = None
    """beginnings of its labelled rows, for `neighbours`; None where it was built without them, or by an earlier version
    """
    learnt_known: bool = True
    """False for a bank of an earlier version, which does not say what it was learnt from"""
    folder: Path | None = None
    """where it was read from"""

    @property
    def d_sae(self) -> int:
        """Features of the SAE."""
        return len(self.effect)

    @property
    def common(self) -> Bools:
        """(d_sae,) features of tone and punctuation: those that fire on a part of the ordinary tokens that is over
        `COMMON` and over `OFTENER` times that of the mean feature, or hardly on words with content.
        """
        fired = self.rate[self.rate > 0]
        # Where all features fire on many tokens, to do so is nothing special.
        often = self.rate > max(COMMON, OFTENER * float(fired.mean() if len(fired) else 0))
        found: Bools = often | (self.content < CONTENT)
        return found

    @property
    def weak(self) -> bool:
        """True when its own held-out check did not beat random banks; every report repeats it."""
        return "evaluation" in self.meta and bool(self.meta["evaluation"].get("weak"))

    @cached_property
    def of_answers(self) -> bool | None:
        """Whether it was learnt from answers, not from bare texts; None for both, and where it is not known."""
        share = self.meta.get("prompted")
        if share is None and self.rows:  # of an earlier version
            share = sum(bool(text["prompt"]) for text in self.rows.texts) / len(self.rows)
        return None if share is None or MIXED < share < 1 - MIXED else share > MIXED

    @cached_property
    def names(self) -> dict[int, FeatureName]:
        """Names of features: its own, else those that ship for its target."""
        found = self.meta.get("names") or shipped_names(self.target["name"], self.target["fingerprint"])
        return usable(found) if found else {}

    def called(self, feature: int) -> str:
        """What a feature is called: its name, else its words; "" where it has neither."""
        name = self.names.get(feature)
        return self.labels[feature] if name is None else name["name"]

    @property
    def examples(self) -> list[list[Excerpt]]:
        """For each toxic feature up to two texts, see `build.excerpts`; none for a bank built without a model."""
        return self.meta["examples"] if "examples" in self.meta else [[] for _ in self.toxic]

    def about(self, path: str | None = None) -> BankAbout:
        """What a run's manifest says of it.

        Args:
            path: its folder; None for a built-in one, which is found by its name.
        """
        folder = self.folder if path is None else Path(path)
        return {
            "name": self.name,
            "toxic_features": len(self.toxic),
            "aligned_features": len(self.aligned),
            "reference_rows": len(self.reference),
            "topics": list(self.topics.names),
            "excluded_features": self.excluded_features,
            "description": self.meta.get("description"),
            "created": self.meta.get("created"),
            "sources": self.meta.get("sources"),
            "evaluation": self.meta.get("evaluation"),
            "path": path,
            "files": {} if folder is None else {name: file_sha256(folder / name) for name in (ABOUT, ARRAYS)},
        }

    @property
    def excluded_features(self) -> list[ExcludedFeature]:
        """For the record: id and label of each."""
        return [{"feature": f, "label": self.called(f)} for f in self.excluded]

    def excluding(self, features: Sequence[int]) -> Bank:
        """The bank without some features: they count nothing in scores, null scores, percentiles and topics.

        Features that lie near to them still do.
        """
        excluded = sorted({*self.excluded, *features})
        if not excluded:
            return self

        def without(table: F32) -> F32:
            out = table.copy()
            out[excluded] = 0
            return out

        near = self.closeness
        return replace(
            self, excluded=excluded, weights=without(self.weights), shuffled=without(self.shuffled),
            random=without(self.random), topics=self.topics.without(excluded),
            closeness=replace(near, toxic=without(near.toxic), aligned=without(near.aligned)),
        )  # fmt: skip

    def save(self, path: Path, mode: int | None = None) -> None:
        """Write the folder.

        Args:
            mode: permissions of the files, since they hold beginnings of rows; the system's default if None.

        Raises:
            BankError: the folder cannot be written.
        """
        from safetensors.numpy import save

        arrays: dict[str, Any] = {
            "toxic": self.toxic,
            "aligned": self.aligned,
            "effect": self.effect,
            "weights": self.weights,
            "shuffled": self.shuffled,
            "closeness.toxic": self.closeness.toxic,
            "closeness.aligned": self.closeness.aligned,
            "closeness.nearest": self.closeness.nearest,
            "random": self.random,
            "background.mean": self.background.mean,
            "background.sd": self.background.sd,
            RATE: self.rate,
            CONTENT_ON: self.content,
            "dense": self.dense,
            "topics.weights": self.topics.weights,
            "topics.centre": self.topics.centre,
            LEARNT_FROM: self.learnt_from,
            **self.reference.arrays("reference."),
            **({} if self.rows is None else self.rows.arrays()),
        }
        if len(self.closeness.other):
            arrays["closeness.other"] = self.closeness.other
            arrays["closeness.other_cosine"] = self.closeness.other_cosine
        text = {
            "format": FORMAT, "name": self.name, "target": self.target, "topics": list(self.topics.names), **self.meta,
            "labels": [escaped(label) for label in self.labels],
        }  # fmt: skip
        packed = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
        # By which both files are known to be of one bank.
        text["arrays"] = {name: array_sum(array) for name, array in sorted(arrays.items())}
        try:
            path.mkdir(parents=True, exist_ok=True)
            with Together() as files:
                with files.open(path / ARRAYS, mode) as handle:
                    handle.write(packed)
                with files.open(path / ABOUT, mode, last=True) as handle:
                    handle.write(as_bytes(json_text(sealed(text), indent=1) + "\n"))
        except OSError as error:
            raise BankError(f"{path}: the bank cannot be written ({error.strerror}); choose another --out") from None

    @classmethod
    def load(cls, path: Path, fingerprint: str | None = None, gate: str | None = None) -> Bank:
        """Read a bank folder.

        Args:
            fingerprint: of the target that will use it; None to skip the check.
            gate: of that target, where its SAE is of Llama Scope.

        Raises:
            BankError: missing, damaged, of a newer format, or made for another target.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        again = "build it again"
        try:
            text = from_json(own_bytes(path / ABOUT))
            if not isinstance(text, dict) or text.get("format") != FORMAT:
                found = text.get("format") if isinstance(text, dict) else None
                raise BankError(f"{path}: bank format {found!r} is not readable here; {again}")
            text.pop(SEAL, None)  # a bank may be given another name by hand; `verify` goes by it
            arrays = load_file(ordinary(path / ARRAYS))
            written = text.pop("arrays", None)  # banks of earlier versions do not say
            if written is not None:
                found = {name: array_sum(array) for name, array in arrays.items()}
                wrong = sorted(n for n in {*found, *written} if found.get(n) != written.get(n))
                if wrong:
                    raise BankError(
                        f"{path}: {one_line(wrong[0])} in {ARRAYS} is not the one that {ABOUT} is about; {again}"
                    )
            return cls._of(path, text, arrays, fingerprint, gate)
        except FileNotFoundError:
            raise BankError(
                f"{path}: not a bank folder ({ABOUT}, {ARRAYS}); make one with geofilter bank build"
            ) from None
        except (OSError, ValueError, SafetensorError) as error:
            raise BankError(f"{path}: the bank is damaged ({error}); {again}") from None
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BankError(f"{path}: the bank is damaged ({type(error).__name__}: {error}); {again}") from None

    @classmethod
    def _of(
        cls, path: Path, text: dict[str, Any], a: dict[str, Any], fingerprint: str | None, gate: str | None
    ) -> Bank:
        target = text.pop("target")
        check_typed(target, BankTarget, "target")
        if fingerprint is not None and target["fingerprint"] != fingerprint:
            raise BankError(f"{path}: {made_for_another(target, fingerprint, gate)}")
        del text["format"]
        check_typed(text, BankMeta)
        check_meta(cast("BankMeta", text))
        check_arrays(a, target["d_sae"], len(text["topics"]))
        learnt_from = a.get(LEARNT_FROM, np.zeros((0, 32), np.uint8))
        check_array(LEARNT_FROM, learnt_from, np.uint8, (None, 32))
        rows = KnownRows.from_arrays(a, len(a["dense"]), len(text["topics"]))
        said = (text["name"], *text["labels"], *text["topics"])
        if not all(isinstance(x, str) for x in said):
            raise TypeError("a name or label that is no text")
        for name, size in (("labels", target["d_sae"]), ("examples", len(a["toxic"]))):
            if name in text and len(text[name]) != size:
                raise BankError(f"{path}: the bank is damaged ({len(text[name])} {name}, not {size}); build it again")
        return cls(
            name=text.pop("name"),
            target=target,
            toxic=a["toxic"],
            aligned=a["aligned"],
            effect=a["effect"],
            weights=a["weights"],
            shuffled=a["shuffled"],
            closeness=Closeness(**{name: a[f"closeness.{name}"] for name in CLOSENESS if f"closeness.{name}" in a}),
            random=a["random"],
            background=Background(a["background.mean"], a["background.sd"]),
            rate=a.get(RATE, np.zeros(target["d_sae"], np.float32)),
            content=a.get(CONTENT_ON, np.ones(target["d_sae"], np.float32)),
            dense=a["dense"],
            reference=Pooled.from_arrays(a, "reference."),
            topics=Topics(tuple(text.pop("topics")), a["topics.weights"], a["topics.centre"]),
            labels=[readable(label) for label in text.pop("labels")],
            meta=cast("BankMeta", text),  # what is left of bank.json
            learnt_from=learnt_from,
            rows=rows,
            learnt_known=LEARNT_FROM in a,
            folder=path,
        )
