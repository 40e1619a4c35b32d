"""Llama Scope's gate: which features of an SAE fire, as it was trained or as sae-lens reads it.

The SAEs are trained with a gate on pre-activation times decoder norm (`sparsity_include_decoder_norm`); sae-lens
compares the pre-activation alone with the same threshold. The value of a feature that fires is the same either way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.target.sae_folder import read_json

UPSTREAM, SAELENS = "upstream", "saelens"
GATES = (UPSTREAM, SAELENS)
_CONFIGURATION = {"llama_scope": "hyperparams.json", "llama_scope_r1_distill": "config.json"}
"""by sae-lens' loader of SAEs with this gate: the file that says how they were trained"""


def chosen(asked: str | None, info: Any, spec: str) -> str | None:
    """The gate of a published SAE; None for one that has no such gate.

    Args:
        asked: for by the user, or None: as it was trained.
        info: sae-lens' entry of the release, or None.

    Raises:
        InputError: no such gate, or see `check_has`.
    """
    check(asked)
    if info is not None and info.conversion_func in _CONFIGURATION:
        return asked or UPSTREAM
    check_has(asked, None, spec)
    return None


def check(asked: str | None) -> None:
    """Raises InputError for a gate that there is not."""
    if asked is not None and asked not in GATES:
        raise InputError(f"--llama-scope-gate {asked}: use {' or '.join(GATES)}")


def check_has(asked: str | None, gate: str | None, spec: str) -> None:
    """Raises InputError for a gate asked for of an SAE that has none; what sae-lens does is done there anyway."""
    if asked == UPSTREAM and gate is None:
        raise InputError(f"--llama-scope-gate {asked}: {spec} is not a Llama Scope SAE; leave the option out")


def as_trained(sae: Any, info: Any, scale: float, files: list[dict[str, str]]) -> None:
    """Change a JumpReLU SAE's threshold so that `pre > threshold` equals upstream's `pre * |d_j| > theta`.

    sae-lens has divided the decoder by `scale`, so |d_j| = |W_dec_j| * scale. An SAE that was trained without the norm
    is left as it is.

    Args:
        scale: norm scaling factor of the release.
        files: that sae-lens has read, see `releases.pinned`.
    """
    name = _CONFIGURATION[info.conversion_func]
    about = read_json(Path(next(f["path"] for f in files if f["name"].rpartition("/")[2] == name)))
    if about.get("sparsity_include_decoder_norm", True):
        sae.threshold.data /= sae.W_dec.data.norm(dim=-1).clamp(min=1e-8) * scale


def note(gate: str | None) -> tuple[str, ...]:
    """What a reader of the scores should know of the gate."""
    if gate == UPSTREAM:
        return ("the SAE is gated as it was trained, by activation times decoder norm (Llama Scope gate upstream)",)
    if gate == SAELENS:
        return (
            "the SAE is gated as sae-lens gates it, without the decoder norm that it was trained with (Llama Scope "
            "gate saelens): other features fire than in training",
        )
    return ()
