"""What is measured: a target, its whole model, its rows and the scores under which ways are compared."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.throughput import rows as data
from benchmarks.throughput.sizes import SIZES, make_model, make_sae
from geofilter.arrays import F64
from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled, RowFeatures
from geofilter.bank.linear import Linear, Shares
from geofilter.bank.scorer import Scorer
from geofilter.build.banks import find
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.encode.model import tokenizer_of
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, encode_row
from geofilter.target.resolve import resolve, whole_model
from geofilter.target.target import Target

EMBEDDED = "smollm2-135m"


@dataclass(eq=False)
class Scores:
    """Scores of rows by name: those of both built-in banks, or two of random weights over log activations."""

    banks: list[Bank]
    """none where weights are random"""
    linear: dict[str, Linear] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    shares: list[Shares] = field(default_factory=list)
    """what divides each of them among tokens"""

    @classmethod
    def of_banks(cls, banks: Sequence[Bank]) -> Scores:
        """The default scorer of each."""
        scorers = {bank.name: Scorer(bank, "ridge") for bank in banks}
        return cls(list(banks), scorers=scorers, shares=[s.shares for s in scorers.values() if s.shares is not None])

    @classmethod
    def random(cls, usual: Pooled, d_sae: int) -> Scores:
        """Two that know nothing.

        Args:
            usual: rows that say how strong features are.
        """
        rng, background = np.random.default_rng(0), Background.of(usual, d_sae)
        found = {f"random {i}": Linear(background, rng.normal(size=d_sae), "log") for i in (1, 2)}
        return cls([], found, shares=[Shares.of(score, usual, 1.0) for score in found.values()])

    def of(self, features: Sequence[RowFeatures]) -> dict[str, F64]:
        """Each score (n,) of the rows."""
        pooled = Pooled.of(features, 0)
        nobody = [""] * len(features)
        return {name: score.scores(pooled) for name, score in self.linear.items()} | {
            name: scorer.standard(pooled, nobody) for name, scorer in self.scorers.items()
        }


def agreement(found: dict[str, F64], wanted: dict[str, F64]) -> dict[str, dict[str, float]]:
    """By score: the rank correlation, and the largest difference of a row relative to its score.

    Where a score is nearer to 0 than the scores' standard deviation the difference is relative to that.
    """
    out = {}
    for name, scores in found.items():
        right = wanted[name][: len(scores)]
        least = np.maximum(np.abs(right), wanted[name].std())
        out[name] = {
            "spearman": float(spearmanr(scores, right).statistic),
            "largest_difference": float((np.abs(scores - right) / least).max()),
        }
    return out


@dataclass(eq=False)
class Subject:
    """One target, on one machine, in one dtype, with its rows."""

    name: str
    target: Target
    whole: Path
    """folder of the model with all layers"""
    data: Path
    loading: Loading
    device: torch.device
    dtype: torch.dtype
    work: Path
    left_out: int
    """rows that no pass can hold, or that cannot be scored"""
    encoded: list[Encoded]

    @classmethod
    def prepare(
        cls, name: str, loading: Loading, device: torch.device, dtype: torch.dtype, n: int, files: Sequence[Path],
        work: Path,
    ) -> Subject:  # fmt: skip
        """Make or find the target and write its rows.

        Args:
            n: rows wanted.
            files: data files for the embedded target, instead of the rows that ship.
        """
        work.mkdir(parents=True, exist_ok=True)
        if name == EMBEDDED:
            target = resolve(TargetChoice(name))
            whole, records = whole_model(target), data.of_files(files) if files else data.shipped()
        else:
            size, model_dir, sae_dir = SIZES[name], work / name, work / f"{name}-sae"
            if not (sae_dir / "cfg.json").is_file():
                shutil.rmtree(model_dir, ignore_errors=True)
                make_model(size, model_dir, device)
                make_sae(size, model_dir, sae_dir, device)
            target = resolve(TargetChoice(str(model_dir), str(sae_dir)), offline=True)
            whole, records = model_dir, list(data.made_up(n))
        tokenizer: Any = tokenizer_of(target.model_dir)
        path = work / f"{name}-rows.jsonl"
        left_out = data.write(records, n, tokenizer, path)
        encoded = [encode_row(row, tokenizer, data.MAX_TOKENS) for row in data.parsed(path)]
        return cls(name, target, whole, path, loading, device, dtype, work, left_out, encoded)

    def scores(self, reader: FeatureReader) -> Scores:
        """Those of the built-in banks of the embedded target, as they ship; of random weights random ones.

        In bfloat16 too: scores differ by what was read alone, and no bank has to be built.
        """
        if self.name == EMBEDDED:
            return Scores.of_banks(find(list(BUILT_IN), self.target, "float32", lambda: reader, print))
        usual = Pooled.of(reader.read(self.encoded[:200]), reader.encoder.d_in)
        return Scores.random(usual, reader.encoder.d_sae)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
