"""Feature geometry: which features a bank holds, and how close all others of the SAE are to them. No model.

Closeness follows Minegishi et al. (arXiv 2605.00842): a gradient step that amplifies feature i moves feature j in
proportion to cos(d_i, d_j), d the unit decoder directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Bools
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.search import ExactSearch
from geofilter.errors import BankError

N_RANDOM_BANKS = 20
NEAR = 0.3
"""cosine from which on a feature is said to be near a toxic one: of the embedded SAE's features one in a hundred comes
as near to the nearest of a hundred drawn at random"""


def max_cosine(directions: F32, bank: F32) -> tuple[F32, I32]:
    """For each unit direction (n, d_in): largest cosine (n,) to the bank's (m, d_in), and which one it is.

    An exact inner-product search (FAISS), on the GPU where there is one.

    Raises:
        BankError: a bank direction has no length or is not a number.
    """
    if not np.isfinite(bank).all() or not np.isfinite(directions).all():
        raise BankError("a decoder direction is not a number; the SAE's weights are damaged")
    if len(bank) == 0 or (np.linalg.norm(bank, axis=1) < 0.5).any():
        raise BankError("a bank feature has no decoder direction (zero norm); build the bank again")
    cosine, which = ExactSearch(bank).nearest(directions, 1)
    return cosine[:, 0], which[:, 0].astype(np.int32)


def nearest_other(directions: F32) -> tuple[F32, I32]:
    """For each of some unit directions (m, d_in): its largest cosine to another of them, and which one that is.

    One that is alone has the cosine -1, to itself.
    """
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, -1)
    which = cosine.argmax(1).astype(np.int32)
    return cosine[np.arange(len(which)), which], which


@dataclass(frozen=True, slots=True, eq=False)
class Closeness:
    """Cosines of every feature of the SAE to a bank; depends on target and bank only, never on a row."""

    toxic: F32
    """(d_sae,) largest cosine to a toxic feature"""
    aligned: F32
    """(d_sae,) largest cosine to an aligned feature"""
    nearest: I32
    """(d_sae,) position in the bank's toxic list of the nearest toxic feature"""
    other: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    """(m,) for each toxic feature the position of the nearest other one; empty in a bank of an earlier version"""
    other_cosine: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """(m,) cosine of the two"""

    def near(self, feature: int, place: int | None) -> tuple[int, float] | None:
        """Position in the toxic list, and cosine, of the toxic feature that is nearest to a feature and not itself.

        Args:
            place: position of the feature in that list; None where it is not there.

        Returns:
            None where the cosine is below `NEAR`.
        """
        if place is None:
            found, cosine = self.nearest[feature], self.toxic[feature]
        elif place < len(self.other):
            found, cosine = self.other[place], self.other_cosine[place]
        else:
            return None
        return (int(found), float(cosine)) if cosine >= NEAR else None

    @property
    def contrast(self) -> F32:
        """c_f, the weight of feature f in the contrast score."""
        return self.toxic - self.aligned


def closeness(directions: F32, toxic: I32, aligned: I32) -> Closeness:
    """Search every feature's direction (d_sae, d_in) against the toxic and the aligned list once."""
    near, which = max_cosine(directions, directions[toxic])
    cosine, other = nearest_other(directions[toxic])
    return Closeness(near, max_cosine(directions, directions[aligned])[0], which, other, cosine)


def effect_sizes(pooled: Pooled, bad: Bools, d_sae: int) -> F32:
    """Standardised mean difference (d_sae,) of each feature: (mean bad - mean good) / pooled sd.

    A feature that varies in neither side gets 0.
    """
    sides = [Background.of(pooled.take(np.flatnonzero(side)), d_sae) for side in (bad, ~bad)]
    sd = np.sqrt((sides[0].sd.astype(np.float64) ** 2 + sides[1].sd.astype(np.float64) ** 2) / 2)
    gap = sides[0].mean.astype(np.float64) - sides[1].mean
    return np.divide(gap, sd, out=np.zeros(d_sae), where=sd > 0).astype(np.float32)


def strongest(effect: F32, size: int) -> tuple[I32, I32]:
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


def random_weights(
    directions: F32, live: npt.NDArray[np.int32], n_toxic: int, n_aligned: int, seed: int, n: int = N_RANDOM_BANKS
) -> F32:
    """Contrast weights (d_sae, n) of banks drawn at random from the live features.

    Their sizes are as given, or in that proportion where fewer features are live.
    """
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(n):
        drawn = rng.permutation(live)[: n_toxic + n_aligned].astype(np.int32)
        cut = max(1, len(drawn) * n_toxic // (n_toxic + n_aligned))
        tables.append(closeness(directions, drawn[:cut], drawn[cut:]).contrast)
    return np.stack(tables, axis=1)
