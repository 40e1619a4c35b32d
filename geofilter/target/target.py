"""A target: a model, an SAE and the hook that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geofilter.config import TargetChoice
from geofilter.target.hooks import Hook


@dataclass(frozen=True, slots=True)
class Target:
    """A loadable pair of model and SAE."""

    name: str
    """alias, hub id, or the model folder's name"""
    model: str
    """where the model comes from: hub id or folder"""
    model_dir: Path
    sae: str
    """where the SAE comes from: RELEASE/SAE_ID or folder"""
    sae_model: str
    """the model the SAE says it was trained on"""
    sae_dir: Path
    hook: Hook
    fingerprint: str
    """sha256 over the weights of both and the hook: banks and runs belong to exactly this"""
    choice: TargetChoice
    """what opens the same target again, revisions pinned"""
    notes: tuple[str, ...] = ()
    """what a reader of the scores should know about the pair"""
    revision: str | None = None
    """commit of a model from the hub"""
    adapter_dir: Path | None = None
    """folder of a LoRA adapter that is merged into the model before it is read"""
    trained_on_it: bool = True
    """the SAE was trained on this very model, as far as names tell, and not on one that it was fine-tuned from"""
    llama_scope_gate: str | None = None
    """of an SAE of Llama Scope, see `gates`"""
    neuronpedia: str | None = None
    """MODEL/SAE, where the SAE's features have pages on neuronpedia.org"""

    @property
    def layer(self) -> int:
        """0-based decoder layer the SAE reads."""
        return self.hook.layer
