"""A model without an SAE: the model of a target, found by its name, hub id, folder or file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofilter.config import TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify
from geofilter.target import adapters, hub, resolve, tokenizer
from geofilter.target.embedded import embedded_model
from geofilter.target.named import known
from geofilter.target.pairing import ModelConfig
from geofilter.text import did_you_mean


@dataclass(frozen=True, slots=True)
class ModelAlone:
    """A model that was found; of one on the hub nothing but its configuration and tokenizer have been fetched."""

    name: str
    """alias, hub id, or the folder's name"""
    model: str
    """where it comes from: hub id or folder; what an SAE names as its model"""
    choice: TargetChoice
    """what opens the same model again"""
    layers: int
    d_in: int
    """width of its residual stream"""
    config_dir: Path
    """folder with its configuration and tokenizer"""
    _plan: Any
    _place: Any

    def weights(self, layers: int, *, offline: bool, notify: Notify) -> tuple[Path, str]:
        """A folder with the first `layers` layers, fetched if need be, and a hash of all that is read of the model.

        Raises:
            TargetError: files that cannot be had.
        """
        folder, found = resolve._weights(self._plan, self._place, min(layers, self.layers), offline, notify)
        mended = tokenizer.NOTE if tokenizer.splits_wrongly(folder) else ""
        return folder, hashlib.sha256(f"{found}{mended}".encode()).hexdigest()

    def whole(self, *, offline: bool, notify: Notify) -> Path:
        """The folder of the whole model, with all layers and the output head, as far as it is on this machine.

        Raises:
            TargetError: it is not.
        """
        if self._place.commit is None:
            return Path(self._place.folder)
        return hub.model_folder(self._plan.model, self._place.commit, None, True, notify)


def find_model(model: str | None, revision: str | None = None, *, offline: bool, notify: Notify) -> ModelAlone:
    """Find a model, without an SAE.

    Args:
        model: a named target, a hub id or a folder.

    Raises:
        InputError: a revision of what is no repository.
        TargetError: no such model, or files that cannot be had.
    """
    table = known()
    names = ", ".join(table)
    if model is None:
        raise TargetError(f"no model chosen; pass --model NAME (known: {names}), a hub id or a folder")
    row = table.get(model)
    if row is None and not Path(model).is_dir() and not hub.REPO.fullmatch(model):
        raise TargetError(
            f"--model {model}: neither a named target ({names}), nor a folder, nor a hub id{did_you_mean(model, table)}"
        )
    if row is None and adapters.stands_alone(Path(model)):
        raise TargetError(f"--model {model}: an adapter without its model; merge it, and give the folder of the result")
    choice = TargetChoice(model, revision=revision)
    plan = resolve._Plan(model if row else None, row, row["model"] if row else model, "", choice)
    if revision is not None and (plan.embedded is not None or Path(plan.model).is_dir()):
        raise InputError(f"--revision {revision}: {model} is no repository of the hub; leave it out")
    if plan.embedded is not None:
        # The whole one: its SAE may read any layer.
        place = resolve._Place(embedded_model(*plan.embedded, offline=offline, notify=notify, whole=True))
    else:
        place = resolve._find_model(plan, offline, notify)
    config = ModelConfig(plan.model, place.folder, named=True, allow_other=False)
    own = Path(plan.model).is_dir() and plan.embedded is None
    return ModelAlone(
        name=plan.alias or (plan.model if not own else place.folder.resolve().name),
        model=plan.model if not own else place.folder.resolve().name,
        choice=TargetChoice(str(place.folder.resolve()) if own else model, revision=place.commit),
        layers=config.layers,
        d_in=int(config.config.hidden_size),
        config_dir=place.folder,
        _plan=plan,
        _place=place,
    )
