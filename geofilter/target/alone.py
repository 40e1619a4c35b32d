"""A model without an SAE, found by a target's name, a hub id, its folder or its GGUF file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from geofilter.config import TargetChoice
from geofilter.errors import TargetError
from geofilter.files import Notify
from geofilter.target import adapters, hub, tokenizer
from geofilter.target.embedded import embedded_model
from geofilter.target.model_files import Place, weights
from geofilter.target.model_files import find_model as find_files
from geofilter.target.named import known
from geofilter.target.pairing import ModelConfig
from geofilter.target.plan import Plan, refuse_no_model, refuse_revisions


@dataclass(frozen=True, slots=True)
class ModelAlone:
    """A model that was found; of one on the hub nothing but its configuration and tokenizer have been fetched."""

    name: str
    """alias, hub id, or the name of the folder or file"""
    model: str
    """what an SAE calls its model: the hub id, the folder's name, or what a GGUF file is called in it"""
    choice: TargetChoice
    """what opens the same model again"""
    config: ModelConfig
    plan: Plan
    place: Place

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.config.layers

    def weights(self, layer: int, *, offline: bool, notify: Notify) -> tuple[Path, str]:
        """A folder with the layers up to one and the next, fetched if need be, and a hash of all that is read of it.

        Raises:
            TargetError: files that cannot be had.
        """
        folder, found = weights(self.plan, self.place, self.config.layers_to_load(layer), offline, notify)
        mended = tokenizer.NOTE if tokenizer.splits_wrongly(folder) else ""
        return folder, hashlib.sha256(f"{found}{mended}".encode()).hexdigest()

    def whole(self, notify: Notify) -> Path:
        """The folder of the whole model, with all layers and the output head, as far as it is on this machine.

        Raises:
            TargetError: it is not.
        """
        if self.place.gguf is not None:
            return self.place.gguf.weights(None, notify)
        if self.place.commit is not None:
            return hub.model_folder(self.plan.model, self.place.commit, None, True, notify)
        return self.place.folder


def find_model(model: str | None, revision: str | None = None, *, offline: bool, notify: Notify) -> ModelAlone:
    """Find a model, without an SAE.

    Args:
        model: a named target, a hub id, a folder or a GGUF file.

    Raises:
        InputError: a revision of what is no repository.
        TargetError: no such model, or files that cannot be had.
    """
    table = known()
    if model is None:
        raise TargetError(
            "no model chosen; pass --model: a name (geofilter targets lists them), a hub id, a folder or a GGUF file"
        )
    row = table.get(model)
    if row is None:
        refuse_no_model(model)
    if row is None and adapters.stands_alone(Path(model)):
        raise TargetError(f"--model {model}: an adapter without its model; merge it, and give the folder of the result")
    choice = TargetChoice(model, revision=revision)
    plan = Plan(model if row else None, row, row["model"] if row else model, "", choice)
    refuse_revisions(plan)
    if plan.embedded is not None:
        # All of its layers: an SAE may read any of them.
        place = Place(embedded_model(*plan.embedded, offline=offline, notify=notify, whole=True))
    else:
        place = find_files(plan, offline, notify)
    named = plan.embedded is not None or place.commit is not None
    called = place.gguf.names if place.gguf else (plan.model if named else place.own.name,)
    config = ModelConfig(plan.model, place.folder, named=named, allow_other=True, called=called)
    return ModelAlone(
        name=plan.alias or (plan.model if named else place.own.stem if place.gguf else place.own.name),
        model=called[0],
        choice=TargetChoice(model if named else str(place.own), revision=place.commit),
        config=config,
        plan=plan,
        place=place,
    )
