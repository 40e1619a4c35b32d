"""A bank: toxic and aligned features of one target, the background they are judged against, and where all
of it came from. A folder of `bank.json` (readable) and `bank.safetensors` (arrays)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter import geometry, ridge, scorers
from geofilter.errors import BankError
from geofilter.geometry import F32, F64, I32, Background, Closeness
from geofilter.paths import cache_dir, package_data, slug
from geofilter.pooled import Pooled
from geofilter.ridge import Ridge
from geofilter.scorers import Linear, Scale

FORMAT = 2
SIZE = 100
"""features on each side by default"""
N_RANDOM_BANKS = 20
Bools = npt.NDArray[np.bool_]


def built_in_folder(name: str, target: str, fingerprint: str, precision: str, sources: dict[str, Any]) -> Path:
    """Folder of a built-in bank for a target: in the package when it ships there for this target and precision, else
    in the cache, whether it has been built or not.

    Args:
        precision: see `config.precision`.
        sources: of its texts, each with `sha256`; part of the cache folder's name, so that new texts mean a new bank.
    """
    shipped = package_data("banks", target, name)
    if (shipped / "bank.json").is_file():
        text = json.loads((shipped / "bank.json").read_text("utf-8"))
        if (text["target"]["fingerprint"], text["dtype"]) == (fingerprint, precision):
            return shipped
    texts = hashlib.sha256("".join(s["sha256"] for s in sources.values()).encode()).hexdigest()
    return cache_dir() / "banks" / f"{slug(target)}-{fingerprint[:12]}-{precision}" / f"{name}-{texts[:12]}"


@dataclass(frozen=True, eq=False)
class Bank:
    """See the module docstring; `meta` holds what is written to bank.json."""

    name: str
    target: dict[str, Any]
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
    dense: F32
    """(d_in,) unit difference of mean residuals, bad - good"""
    reference: Pooled
    """ordinary rows that percentiles are counted in"""
    labels: Sequence[str] = field(default_factory=list)
    """per feature: its strongest tokens in the texts the bank was built from"""
    meta: dict[str, Any] = field(default_factory=dict)
    """sources, options, evaluation"""

    @property
    def d_sae(self) -> int:
        """Features of the SAE."""
        return len(self.effect)

    @property
    def weak(self) -> bool:
        """True when its own held-out check did not beat random banks; every report repeats it."""
        return bool(self.meta.get("evaluation", {}).get("weak", False))

    @cached_property
    def _scales(self) -> dict[str, Scale]:
        return {}

    @cached_property
    def _nulls(self) -> dict[str, tuple[Linear, F64, F64]]:
        return {}

    def about(self, path: str | None = None, sha256: str | None = None) -> dict[str, Any]:
        """What a run's manifest says of it.

        Args:
            path: its folder; None for a built-in one, which is found by its name.
            sha256: of bank.safetensors there.
        """
        return {
            "name": self.name,
            "toxic_features": len(self.toxic),
            "aligned_features": len(self.aligned),
            "reference_rows": len(self.reference),
            **{k: self.meta.get(k) for k in ("description", "created", "sources", "evaluation")},
            "path": path,
            "sha256": sha256,
        }

    def scale(self, scorer: str) -> Scale:
        """Reference scores of a scorer, computed once."""
        if scorer not in self._scales:
            shas = [f"reference-{i}" for i in range(len(self.reference))]
            self._scales[scorer] = Scale(np.sort(scorers.raw_scores(scorer, self, self.reference, shas)))
        return self._scales[scorer]

    def standard(self, scorer: str, pooled: Pooled, shas: Sequence[str]) -> F64:
        """(n,) standard scores of rows under a scorer, against the reference rows."""
        return self.scale(scorer).standard(scorers.raw_scores(scorer, self, pooled, shas))

    def null(self, scorer: str, pooled: Pooled) -> F64:
        """(n, 20) standard scores of rows under scores that know nothing, see `scorers.null`."""
        if scorer not in self._nulls:
            score = scorers.null(scorer, self)
            reference = score.scores(self.reference)
            sd = np.where(reference.std(0) > 0, reference.std(0), 1.0)
            self._nulls[scorer] = (score, reference.mean(0), sd)
        score, mean, sd = self._nulls[scorer]
        standard: F64 = (score.scores(pooled) - mean) / sd
        return standard

    def save(self, path: Path) -> None:
        """Write the folder.

        Raises:
            BankError: the folder cannot be written.
        """
        from safetensors.numpy import save_file

        arrays = {
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
            "dense": self.dense,
            **self.reference.arrays("reference."),
        }
        text = {"format": FORMAT, "name": self.name, "target": self.target, **self.meta, "labels": list(self.labels)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Complete under other names first: an interrupted write leaves no half of a bank behind.
            scratch = {name: path / f"{name}.tmp-{os.getpid()}" for name in ("bank.safetensors", "bank.json")}
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, scratch["bank.safetensors"])
            scratch["bank.json"].write_text(json.dumps(text, ensure_ascii=False, indent=1) + "\n", "utf-8")
            for name, file in scratch.items():
                file.replace(path / name)
        except OSError as error:
            raise BankError(f"{path}: the bank cannot be written ({error.strerror}); choose another --out") from None

    @classmethod
    def load(cls, path: Path, fingerprint: str | None = None) -> Bank:
        """Read a bank folder.

        Args:
            fingerprint: of the target that will use it; None to skip the check.

        Raises:
            BankError: missing, damaged, of a newer format, or made for another target.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            text = json.loads((path / "bank.json").read_text("utf-8"))
            a = load_file(path / "bank.safetensors")
        except FileNotFoundError:
            raise BankError(
                f"{path}: not a bank folder (bank.json, bank.safetensors); make one with geofilter bank build"
            ) from None
        except (OSError, ValueError, SafetensorError) as error:
            raise BankError(f"{path}: the bank is damaged ({error}); build it again") from None
        if not isinstance(text, dict) or text.get("format") != FORMAT:
            found = text.get("format") if isinstance(text, dict) else None
            raise BankError(f"{path}: bank format {found!r} is not readable here; build it again")
        try:
            return cls._of(path, text, a, fingerprint)
        except (KeyError, TypeError, AttributeError) as error:
            raise BankError(f"{path}: the bank is damaged ({type(error).__name__}: {error}); build it again") from None

    @classmethod
    def _of(cls, path: Path, text: dict[str, Any], a: dict[str, Any], fingerprint: str | None) -> Bank:
        target = text.pop("target")
        if fingerprint is not None and target["fingerprint"] != fingerprint:
            raise BankError(
                f"{path}: made for target {target['name']} ({target['fingerprint'][:8]}), not for this one "
                f"({fingerprint[:8]}); build a bank for this target"
            )
        del text["format"]
        return cls(
            name=text.pop("name"),
            target=target,
            toxic=a["toxic"],
            aligned=a["aligned"],
            effect=a["effect"],
            weights=a["weights"],
            shuffled=a["shuffled"],
            closeness=Closeness(a["closeness.toxic"], a["closeness.aligned"], a["closeness.nearest"]),
            random=a["random"],
            background=Background(a["background.mean"], a["background.sd"]),
            dense=a["dense"],
            reference=Pooled.from_arrays(a, "reference."),
            labels=text.pop("labels"),
            meta=text,
        )


def effect_sizes(pooled: Pooled, bad: Bools, d_sae: int) -> F32:
    """Standardised mean difference (d_sae,) of each feature: (mean bad - mean good) / pooled sd.

    A feature that varies in neither side gets 0.
    """
    sides = [Background.of(pooled.take(np.flatnonzero(side)), d_sae) for side in (bad, ~bad)]
    sd = np.sqrt((sides[0].sd.astype(np.float64) ** 2 + sides[1].sd.astype(np.float64) ** 2) / 2)
    gap = sides[0].mean.astype(np.float64) - sides[1].mean
    return np.divide(gap, sd, out=np.zeros(d_sae), where=sd > 0).astype(np.float32)


def choose(effect: F32, size: int) -> tuple[I32, I32]:
    """The `size` features with the largest effect each way: toxic and aligned, strongest first.

    Raises:
        BankError: nothing differs between the two sides.
    """
    order = np.argsort(-effect, kind="stable")
    toxic = order[:size][effect[order[:size]] > 0]
    aligned = order[::-1][:size][effect[order[::-1][:size]] < 0]
    if not len(toxic) or not len(aligned):
        raise BankError("no feature differs between the bad and the good rows; check that the two files differ")
    return toxic.astype(np.int32), aligned.astype(np.int32)


def fit(
    name: str,
    target: dict[str, Any],
    directions: F32,
    seeds: Pooled,
    bad: Bools,
    reference: Pooled,
    size: int = SIZE,
    labels: Sequence[str] = (),
    meta: dict[str, Any] | None = None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    priors: F32 | None = None,
) -> Bank:
    """Learn the bank's weights and choose its features from labelled rows; compute everything that scoring needs.

    Args:
        directions: (d_sae, d_in) unit decoder directions.
        seeds: pooled rows, `bad` (n,) True for the toxic side.
        reference: ordinary rows; their mean and sd are the background.
        groups: rows that are compared with each other only, such as the answers to one question; None for all.
        priors: (d_sae, m) weights of other banks that these may build on, see `ridge`.
    """
    d_sae = len(directions)
    effect = effect_sizes(seeds, bad, d_sae)
    toxic, aligned = choose(effect, min(size, d_sae // 8))
    live = np.unique(np.concatenate([seeds.indices, reference.indices]))
    live = live[np.linalg.norm(directions[live], axis=1) > 0]
    residual = seeds.residual.astype(np.float32)
    dense = residual[bad].mean(0) - residual[~bad].mean(0)
    background = Background.of(reference, d_sae)
    learner = Ridge(seeds, background, groups, priors, reference)
    return Bank(
        name=name,
        target=target,
        toxic=toxic,
        aligned=aligned,
        effect=effect,
        weights=learner.weights(np.where(bad, 1.0, -1.0)),
        shuffled=Ridge(seeds, background, groups).weights(ridge.shuffled(bad, groups, N_RANDOM_BANKS, seed)),
        closeness=geometry.closeness(directions, toxic, aligned),
        random=random_weights(directions, live, len(toxic), len(aligned), seed),
        background=background,
        dense=(dense / max(float(np.linalg.norm(dense)), 1e-12)).astype(np.float32),
        reference=reference,
        labels=labels,
        meta=meta or {},
    )


def random_weights(
    directions: F32, live: npt.NDArray[np.int32], n_toxic: int, n_aligned: int, seed: int, n: int = N_RANDOM_BANKS
) -> F32:
    """Contrast weights (d_sae, n) of banks drawn at random from the live features, sizes as given."""
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(n):
        drawn = rng.permutation(live)[: n_toxic + n_aligned].astype(np.int32)
        cut = min(n_toxic, len(drawn) // 2)
        tables.append(geometry.closeness(directions, drawn[:cut], drawn[cut:]).contrast)
    return np.stack(tables, axis=1)
