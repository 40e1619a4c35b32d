"""LoRA adapters as peft saves them: found and named; `encode.adapter` merges them into a model.

transformers applies an adapter that it finds in a model's folder, or does not, by whether peft is installed. Here an
adapter is applied when it is asked for, and never else.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geofilter.config import TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.files import file_sha256
from geofilter.target import hub
from geofilter.target.model_names import same_model
from geofilter.target.sae_folder import read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AT_REVISION = re.compile(rf"({hub.REPO.pattern})(?:@([\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose files are on this machine."""

    name: str
    """what opens it again: its folder, or ORG/REPO@COMMIT"""
    folder: Path

    @property
    def sha256(self) -> str:
        """Of its configuration and its weights."""
        files = "".join(file_sha256(self.folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
        return hashlib.sha256(files.encode()).hexdigest()


def find(spec: str, offline: bool) -> Adapter:
    """The adapter that `--adapter` names.

    Args:
        spec: a folder, or ORG/REPO of the hub, or ORG/REPO@REVISION.

    Raises:
        TargetError: no such adapter, one whose weights are not safetensors, or one that is not LoRA.
    """
    if (folder := Path(spec)).is_dir():
        found = Adapter(str(folder.resolve()), folder.resolve())
    elif match := _AT_REVISION.fullmatch(spec):
        repo, revision = match.groups()
        config = hub.fetch(repo, ADAPTER_CONFIG, revision=revision, offline=offline)
        commit = config.parent.name
        hub.fetch(repo, ADAPTER_WEIGHTS, revision=commit, offline=offline)
        found = Adapter(f"{repo}@{commit}", config.parent)
    else:
        raise TargetError(f"--adapter {spec}: neither a folder nor a hub id (ORG/REPO or ORG/REPO@REVISION)")
    if not (found.folder / ADAPTER_CONFIG).is_file():
        raise TargetError(f"--adapter {spec}: holds no {ADAPTER_CONFIG}; give a folder that peft has saved")
    kind = _config(found.folder).get("peft_type")
    if kind != "LORA":
        raise TargetError(f"--adapter {spec}: is of the kind {kind}; only LoRA can be merged: give a LoRA adapter")
    if not (found.folder / ADAPTER_WEIGHTS).is_file():
        raise TargetError(
            f"--adapter {spec}: has no {ADAPTER_WEIGHTS}; weights must be safetensors, save the adapter anew with peft"
        )
    return found


def stands_alone(folder: Path) -> bool:
    """True for a folder with an adapter and no weights of a whole model beside it."""
    others = (path for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
    return (folder / ADAPTER_CONFIG).is_file() and not any(others)


def with_base(choice: TargetChoice, folder: Path, adapter: str, revision: str | None) -> TargetChoice:
    """The same choice with an adapter's base as the model and the adapter beside it.

    Args:
        folder: with the adapter's configuration.
        adapter: what opens the adapter.
        revision: of the base.

    Raises:
        InputError: `--adapter` names another one.
        TargetError: its base is not named, or neither a folder nor a hub id.
    """
    if choice.adapter is not None:
        raise InputError(f"--model {choice.model}: is an adapter itself, and so is --adapter; give its base as --model")
    base = _config(folder).get("base_model_name_or_path")
    by_hand = f"give the base by --model and the adapter by --adapter {adapter}"
    if not isinstance(base, str) or not base:
        raise TargetError(f"{folder / ADAPTER_CONFIG}: names no base_model_name_or_path; {by_hand}")
    here = next((place.resolve() for place in (folder / base, Path(base)) if place.is_dir()), None)
    if here is None and not hub.REPO.fullmatch(base):
        raise TargetError(f"{adapter}: its base model {base} is neither a folder here nor a hub id; {by_hand}")
    if here is not None and stands_alone(here):
        raise TargetError(f"{adapter}: its base model {here} is an adapter too; merge that one first, then {by_hand}")
    return replace(choice, model=base if here is None else str(here), adapter=adapter, revision=revision)


def on_hub(choice: TargetChoice, offline: bool) -> TargetChoice | None:
    """`with_base` of a repository that holds an adapter and no model; None where it holds no adapter.

    Raises:
        InputError, TargetError: see `with_base`.
    """
    try:
        config = hub.fetch(str(choice.model), ADAPTER_CONFIG, revision=choice.revision, offline=offline)
    except TargetError:
        return None
    return with_base(choice, config.parent, f"{choice.model}@{config.parent.name}", None)


def notes(adapter: Adapter | None, model: str, folder: Path) -> tuple[str, ...]:
    """What a reader of the scores should know of an adapter that is applied, or that lies there and is not.

    Args:
        folder: of the model.
    """
    if adapter is None:
        if not (folder / ADAPTER_CONFIG).is_file():
            return ()
        return (f"{model} also holds a LoRA adapter, which is not applied; --adapter {model} applies it",)
    said = f"the LoRA adapter {adapter.name} is merged into {model} before it is read"
    base = _config(adapter.folder).get("base_model_name_or_path")
    if isinstance(base, str) and all(map(hub.REPO.fullmatch, (base, model))) and not same_model(base, model)[0]:
        said += f"; it names {base} as its base"
    if hub.has_chat_template(adapter.folder) and adapter.folder != folder:
        return (said, f"the adapter has a chat template of its own, which is not used: rows are read by {model}'s")
    return (said,)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    return read_json(path, "an adapter is a folder that peft has saved")
