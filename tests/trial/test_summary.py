"""From the arms of a trial to its figures: effects, reductions and their intervals."""

import json

import numpy as np
import pytest

from geofilter.trial.measures import Items
from geofilter.trial.summary import summarise
from geofilter.trial.tables import verdicts
from geofilter.trial.tune import Budget


def records(effects: dict[tuple[str, str], float], items: int = 40, noise: float = 0.0):
    """Arms whose pair measure is 0.1 for good, and that plus an effect for the others."""
    rng = np.random.default_rng(0)
    features = {"b": {"toxic_activation": 1.0, "aligned_activation": 1.0, "closeness": 0.5}}
    common = {"loss": [1.0], "features": features}
    out = [{"arm": "base", "drop": "", "seed": None, "pairs": [0.0] * items, **common}]
    each = rng.normal(0, 1, items)
    each -= each.mean()
    for seed in range(3):
        for (arm, drop), effect in {("good", ""): 0.0, **effects}.items():
            value = 0.1 + effect + noise * rng.normal() + each
            out.append({"arm": arm, "drop": drop, "seed": seed, "pairs": value.tolist(), **common})
    return out


ABOUT = {"target": "t", "data": [{"path": "d"}], "scorer": "contrast", "banks": ["b"]}


def test_reductions_are_against_full_less_what_aligned_data_do():
    found = records({("full", ""): 0.4, ("random", "50%"): 0.3, ("score", "50%"): 0.1})
    result = summarise(ABOUT, Budget(1, 1), found, None)
    pairs = result["measures"]["pairs"]
    rows = {r["arm"]: r for r in pairs["rows"]}
    assert pairs["measurable"]
    assert rows["full"]["misalignment"] == pytest.approx(0.4)
    assert rows["good"]["misalignment"] == 0
    assert rows["score"]["reduction"] == pytest.approx(0.75)
    assert rows["random"]["reduction"] == pytest.approx(0.25)
    assert rows["score"]["beyond_random"] == pytest.approx(0.5)
    # The items' spread is the same in every arm, so it does not blur their differences.
    assert rows["score"]["reduction_interval"] == pytest.approx([0.75, 0.75])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    (text,) = verdicts(result)
    assert text == (
        "pairs, drop 50%: removal by score cuts misalignment by 75% [75%, 75%] relative to full, a random removal of "
        "equal size cuts misalignment by 25% [25%, 25%]; the difference is clear of zero (the paper: 34.5%)."
    )


def test_a_removal_that_makes_it_worse_is_said_to_raise_it():
    found = records({("full", ""): 0.4, ("random", "50%"): 0.5, ("score", "50%"): 0.401})
    (text,) = verdicts(summarise(ABOUT, Budget(1, 1), found, None))
    assert "removal by score cuts misalignment by 0% [0%, 0%] relative to full" in text
    assert "a random removal of equal size raises misalignment by 25% [25%, 25%]" in text


def test_what_is_not_measurable_is_not_reduced():
    result = summarise(ABOUT, Budget(1, 1), records({("full", ""): 0.02, ("score", "50%"): 0.0}, noise=0.1), None)
    assert not result["measures"]["pairs"]["measurable"]
    assert all("reduction" not in row for row in result["measures"]["pairs"]["rows"])
    assert "does not measurably misalign" in verdicts(result)[0]


def test_the_interval_covers_the_true_reduction():
    """Noise of seeds and items: 95 % intervals over three seeds are rough, but not narrow beyond use."""
    inside = 0
    for k in range(40):
        rng = np.random.default_rng(k)
        found = records({("full", ""): 0.4, ("score", "50%"): 0.2})
        for r in found[1:]:
            r["pairs"] = (np.array(r["pairs"]) + rng.normal(0, 0.03) + rng.normal(0, 0.1, 40)).tolist()
        row = summarise(ABOUT, Budget(1, 1), found, None)["measures"]["pairs"]["rows"][-1]
        low, high = row["reduction_interval"]
        inside += low <= 0.5 <= high
    assert inside >= 30


def test_statements_weigh_misaligned_against_aligned():
    found = records({("full", ""): 0.0})
    items = Items((None,) * 4, (True, False, True, False))
    for r in found:
        r["statements"] = [2.0, 1.0, 4.0, 0.0] if r["arm"] == "full" else [1.0, 1.0, 1.0, 1.0]
        del r["pairs"]
    result = summarise(ABOUT, Budget(1, 1), found, items)
    assert {r["arm"]: r["misalignment"] for r in result["measures"]["statements"]["rows"]} == {"good": 0.0, "full": 2.5}
