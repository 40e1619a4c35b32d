"""What a bank must be before anything is computed with it: its arrays, and whose target it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import check_array
from geofilter.bank.about import BankMeta, BankTarget
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled

_BY_FEATURE: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "effect": (np.float32, ()),
    "weights": (np.float32, ()),
    "shuffled": (np.float32, (None,)),
    "closeness.toxic": (np.float32, ()),
    "closeness.aligned": (np.float32, ()),
    "closeness.nearest": (np.int32, ()),
    "random": (np.float32, (None,)),
    "background.mean": (np.float32, ()),
    "background.sd": (np.float32, ()),
    "topics.centre": (np.float32, ()),
}
"""arrays with a row for each feature: element type, and sizes after the first"""


def check_arrays(a: Mapping[str, npt.NDArray[Any]], d_sae: int, n_topics: int) -> None:
    """Refuse arrays that scores could not be computed with, or not compared.

    Args:
        a: of bank.safetensors, by name.
        d_sae: features of the SAE.
        n_topics: topics of the bank.

    Raises:
        KeyError: one is missing.
        ValueError: which array, and what of it.
    """
    for name, (kind, sizes) in _BY_FEATURE.items():
        check_array(name, a[name], kind, (d_sae, *sizes))
    check_array("topics.weights", a["topics.weights"], np.float32, (d_sae, n_topics))
    check_array("dense", a["dense"], np.float32)
    for name in ("shuffled", "random"):
        if not a[name].shape[1]:
            raise ValueError(f"{name} has no columns")
    for name, below in (("toxic", d_sae), ("aligned", d_sae), ("closeness.nearest", len(a["toxic"]))):
        check_array(name, a[name], np.int32)
        if not len(a[name]) or a[name].min() < 0 or a[name].max() >= below:
            raise ValueError(f"{name} is empty, or has numbers other than 0 to {below - 1}")
    _check_later(a, d_sae)
    usual = Background(a["background.mean"], a["background.sd"])
    if (usual.sd < 0).any() or not (usual.scale > 0).all():
        raise ValueError("background.sd is below 0, or 0 throughout")
    reference = Pooled.from_arrays(a, "reference.")
    reference.check(d_sae, "reference.")
    if not len(reference) or reference.residual.shape[1] != len(a["dense"]):
        raise ValueError(f"reference has residuals {reference.residual.shape}, not (1 or more, {len(a['dense'])})")


def _check_later(a: Mapping[str, npt.NDArray[Any]], d_sae: int) -> None:
    """Refuse arrays that banks of earlier versions do not have."""
    for name in ("rate", "content"):
        if name in a:
            check_array(name, a[name], np.float32, (d_sae,))
            if not ((a[name] >= 0) & (a[name] <= 1)).all():
                raise ValueError(f"{name} has numbers other than 0 to 1")
    m = len(a["toxic"])
    if "closeness.other" in a:
        check_array("closeness.other_cosine", a["closeness.other_cosine"], np.float32, (m,))
        check_array("closeness.other", other := a["closeness.other"], np.int32, (m,))
        if other.min() < 0 or other.max() >= m:
            raise ValueError(f"closeness.other has numbers other than 0 to {m - 1}")


def check_meta(text: BankMeta) -> None:
    """Refuse what is said of a bank where it has the right types but cannot be shown.

    Raises:
        ValueError: which key.
    """
    if "evaluation" in text and len(text["evaluation"]["interval"]) != 2:
        raise ValueError("evaluation.interval is no pair")
    spans = (span for of in text.get("examples", ()) for excerpt in of for span in excerpt["strong"])
    if any(len(span) != 2 for span in spans):
        raise ValueError("examples has a span that is no pair")


def made_for_another(target: BankTarget, fingerprint: str, gate: str | None) -> str:
    """What is wrong with a bank of another target, and what to do.

    Args:
        target: the bank's.
        fingerprint: of the target that is to use it.
        gate: of that target, where its SAE is of Llama Scope.
    """
    theirs = target.get("llama_scope_gate")
    if theirs and gate and theirs != gate:
        return (
            f"made with the Llama Scope gate {theirs}, not with {gate}; build a bank for this target, or read it with "
            f"--llama-scope-gate {theirs}"
        )
    text = (
        f"made for target {target['name']} ({target['fingerprint'][:8]}), not for this one ({fingerprint[:8]}); build "
        "a bank for this target"
    )
    # Earlier versions did not say, and gated as sae-lens does unless something else was asked for.
    older = " (where only the Llama Scope gate differs, --llama-scope-gate saelens reads it)"
    return text + older if gate == "upstream" and not theirs else text
