"""What is said of a feature that a row scores by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geofilter.bank.bank import Bank
from geofilter.bank.linear import FeatureShare
from geofilter.run.manifest import NamedFeature, NearFeature
from geofilter.run.shard import Shard


class Namer:
    """Names features under a bank."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._place = {feature: place for place, feature in enumerate(bank.toxic.tolist())}
        self._known_near: dict[int, NearFeature | None] = {}

    def named(self, shares: Sequence[FeatureShare], shard: Shard, row: int) -> list[NamedFeature]:
        """What is said of some active features of a row of a shard."""
        pooled = shard.pooled
        start, end = pooled.indptr[row], pooled.indptr[row + 1]
        wanted = np.array([share.feature for share in shares], np.int32)
        at = start + np.searchsorted(pooled.indices[start:end], wanted)
        out = [self.feature(share, value) for share, value in zip(shares, pooled.values[at].tolist(), strict=True)]
        for named, span in zip(out, shard.peak_spans(row, at), strict=True):
            if span is not None:
                named["at"] = list(span)
        return out

    def feature(self, share: FeatureShare, value: float) -> NamedFeature:
        """What is said of one feature; `value` is its mean activation on the row's tokens."""
        feature, bank = share.feature, self._bank
        usual = float(bank.background.mean[feature])
        return {
            "feature": feature,
            "label": bank.labels[feature],
            "share": round(share.share, 6),
            "times": float(f"{value / usual:.3g}") if usual > 0 else None,
            "toxic": feature in self._place,
            "near": self._near(feature),
        }

    def _near(self, feature: int) -> NearFeature | None:
        """The toxic feature that a feature is near to; many rows score by the same features."""
        if feature not in self._known_near:
            self._known_near[feature] = self._find_near(feature)
        return self._known_near[feature]

    def _find_near(self, feature: int) -> NearFeature | None:
        bank = self._bank
        if (found := bank.closeness.near(feature, self._place.get(feature))) is None:
            return None
        near = int(bank.toxic[found[0]])
        return {"feature": near, "label": bank.labels[near], "cosine": round(found[1], 3)}
