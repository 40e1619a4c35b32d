"""What is said of a feature that a row scores by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geofilter.arrays import F64, Positions
from geofilter.bank.bank import Bank
from geofilter.bank.linear import FeatureShare
from geofilter.files import json_text
from geofilter.run.manifest import NamedFeature, NearFeature
from geofilter.run.shard import Shard


class Namer:
    """Names features under a bank."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._place = {feature: place for place, feature in enumerate(bank.toxic.tolist())}
        self._known: dict[int, tuple[str, str]] = {}

    def texts(self, shard: Shard, rows: Positions, at: Positions, share: F64) -> list[str]:
        """What is said of active features, each a `NamedFeature` as JSON.

        Args:
            rows: (m,) of the shard.
            at: (m,) places of the activations in `Shard.pooled`.
            share: (m,)
        """
        features, values = shard.pooled.indices[at], shard.pooled.values[at].astype(np.float64)
        usual = self._bank.background.mean[features].astype(np.float64)
        times = np.divide(values, usual, out=np.zeros(len(usual)), where=usual > 0)
        spans, ever, known = shard.peak_spans(rows, at), usual > 0, self._known
        out = []
        for feature, part, ratio, usually, span in zip(
            features.tolist(), share.tolist(), times.tolist(), ever.tolist(), spans, strict=True
        ):
            begin, end = known.get(feature) or self._known_of(feature)
            strong = repr(float(f"{ratio:.3g}")) if usually else "null"
            where = "" if span is None else f', "at": [{span[0]}, {span[1]}]'
            out.append(f'{begin}{round(part, 6)!r}, "times": {strong}{end}{where}}}')
        return out

    def _known_of(self, feature: int) -> tuple[str, str]:
        """What the text of a feature begins and ends with; many rows score by the same ones."""
        said = self.feature(FeatureShare(feature, 0.0), 0.0)
        begin = json_text({"feature": feature, "label": said["label"]})[:-1] + ', "share": '
        end = ", " + json_text({"toxic": said["toxic"], "near": said["near"]})[1:-1]
        self._known[feature] = begin, end
        return begin, end

    def feature(self, share: FeatureShare, value: float) -> NamedFeature:
        """What is said of one feature; `value` is its mean activation on the row's tokens."""
        feature, bank = share.feature, self._bank
        usual = float(bank.background.mean[feature])
        return {
            "feature": feature,
            "label": bank.called(feature),
            "share": round(share.share, 6),
            "times": float(f"{value / usual:.3g}") if usual > 0 else None,
            "toxic": feature in self._place,
            "near": self._near(feature),
        }

    def _near(self, feature: int) -> NearFeature | None:
        bank = self._bank
        if (found := bank.closeness.near(feature, self._place.get(feature))) is None:
            return None
        near = int(bank.toxic[found[0]])
        return {"feature": near, "label": bank.called(near), "cosine": round(found[1], 3)}


def joined(texts: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """JSON lists of so many texts each."""
    out, start = [], 0
    for size in sizes:
        out.append(f"[{', '.join(texts[start : start + size])}]")
        start += size
    return out
