"""Models in a GGUF file: widened once into safetensors in the cache, as far as they are needed.

Tensors are taken one after the other, so that no more than one of them is held at a time.
"""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.errors import TargetError, first_line
from geofilter.files import Notify, cache_dir, made_once, slug
from geofilter.target import kept
from geofilter.target.decoder import is_wanted, layer_of
from geofilter.target.gguf_architectures import ROPE, architecture_of, configuration
from geofilter.target.gguf_header import Header, Tensor, is_gguf, read_header
from geofilter.target.gguf_tokenizer import split_note, write_tokenizer
from geofilter.target.hub import CONFIG, INDEX

__all__ = ["GgufFile", "is_gguf", "widen", "write_tokenizer", "writing"]

READ_AS = 1
"""counted up when the same file comes to be read as another model"""
_ABOUT = "source.json"
_CHUNK = 1 << 24
"""weights that are widened at once"""
_MOST_FREQUENCIES = 1 << 12
"""of a rotary embedding; half of a head's dimensions"""
_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class GgufFile:
    """A model in a GGUF file, and what is kept of it in the cache."""

    path: Path
    sha256: str
    touched: tuple[int, ...]
    """see `kept.touched`, when it was hashed or before"""

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """A file as it is now; its hash is remembered until it is touched, for a day at the most.

        Raises:
            TargetError: it cannot be read.
        """
        found = path.absolute()  # a link of a Hugging Face cache names it better than the file it leads to
        try:
            before = kept.touched(found)
        except OSError as error:
            raise TargetError(f"{path}: cannot be read ({error.strerror}); get the file again") from None
        return cls(found, kept.sha256_of(found), before)

    @property
    def identity(self) -> str:
        """What stands for the model's weights, configuration and tokenizer in a fingerprint."""
        return f"gguf {READ_AS} {self.sha256}"

    def _place(self, what: object) -> Path:
        return cache_dir() / "models" / f"{slug(self.path.stem)[:80]}-{self.sha256[:12]}-gguf{READ_AS}-{what}"

    def config(self, notify: Notify) -> Path:
        """A folder with the model's configuration alone.

        Raises:
            TargetError: not a file that can be read, see `read_header`, `configuration`.
        """

        def make(out: Path) -> None:
            header = read_header(self.path)
            _write_config(header, None, out)
            about = {"names": _names(header), "weights": _formats(header), "split": split_note(header)}
            (out / _ABOUT).write_text(json.dumps(about), "utf-8")
            kept.record(out)

        return self._made("config", make, notify)

    def weights(self, layers: int | None, notify: Notify) -> Path:
        """A model folder with the first `layers` decoder layers; with all, and the output head, when None.

        Raises:
            TargetError: not a file that can be read, no tokenizer, or no room in the cache.
        """

        def make(out: Path) -> None:
            which = "all layers" if layers is None else f"layers 0 to {layers - 1}"
            notify(f"widening {self.path.name} ({which}), once ...")
            header = read_header(self.path)
            with writing(self.path.name):
                write_tokenizer(header, out)
                widen(header, layers, out)
            if kept.touched(self.path) != self.touched:
                raise TargetError(f"{self.path}: was changed while it was read; run the command again")
            kept.record(out)

        return self._made("whole" if layers is None else self._there(layers), make, notify)

    def _there(self, layers: int) -> int | str:
        """What is in the cache already and has so many layers or more, the least of it; else so many."""
        place = self._place("")
        found = (path.name.removeprefix(place.name) for path in place.parent.glob(f"{glob.escape(place.name)}*"))
        more = sorted(int(name) for name in found if name.isdecimal() and int(name) >= layers)
        known: list[int | str] = [*more, "whole"]
        return next((what for what in known if kept.recorded(self._place(what))), layers)

    def _made(self, what: object, make: Any, notify: Notify) -> Path:
        made = made_once(self._place(what), lambda folder: bool(kept.recorded(folder)), make, notify)
        kept.check(made, kept.recorded(made))
        return made

    @cached_property
    def _about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._place("config") / _ABOUT).read_text("utf-8"))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What the model is called by the file, or else by the file's name; once `config` is made."""
        return tuple(self._about["names"]) or (self.path.stem,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores should know; once `config` is made."""
        about = self._about
        widened = f"its weights were widened from a GGUF file, {self.path.name}: {about['weights']}"
        return (widened, about["split"]) if about["split"] else (widened,)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Have an error of the system say that there is too little room, or the like, in the cache.

    Raises:
        TargetError: there was one.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TargetError(
            f"{cache_dir()}: {what} cannot be widened there ({first_line(error)}); make room, or set GEOFILTER_CACHE "
            "to another folder"
        ) from None


def _names(header: Header) -> list[str]:
    """By `general.name`, and by basename, size and fine-tune."""
    parts = [header.text(f"general.{key}") for key in ("basename", "size_label", "finetune")]
    found = [header.text("general.name"), "-".join(filter(None, parts)) if parts[0] else ""]
    return list(dict.fromkeys(re.sub(r"\s+", "-", name.strip()) for name in found if name.strip()))


def _formats(header: Header) -> str:
    """Formats of the weights by their share, the rarest left out."""
    counts: Counter[str] = Counter()
    for tensor in header.tensors.values():
        counts[tensor.kind] += tensor.count
    shown = [(kind, count / counts.total()) for kind, count in counts.most_common()]
    return ", ".join(f"{kind} ({share:.0%})" for kind, share in shown if share >= 0.01)


def _write_config(header: Header, layers: int | None, out: Path) -> dict[str, Any]:
    """Write a file's configuration, of the first `layers` layers if not None; returns its facts."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture_of(header)
    factors = header.tensors.get(ROPE)
    if factors is not None and factors.count > _MOST_FREQUENCIES:
        raise _misfit(header, f"{ROPE} is {factors.shape}")
    facts = configuration(header, None if factors is None else _read(header, factors).float().numpy())
    if layers is not None:
        facts["num_hidden_layers"] = layers
        if "layer_types" in facts:
            facts["layer_types"] = facts["layer_types"][:layers]
    try:
        config = AutoConfig.for_model(**facts)
        if layers is None:  # a language model by itself: other programs ask which class
            config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        config.save_pretrained(out)
    except Exception as error:  # whatever transformers raises at values it does not take
        raise TargetError(
            f"{header.path}: its metadata are no configuration of a model ({first_line(error)}); get the file again"
        ) from None
    return facts


def widen(header: Header, layers: int | None, out: Path, *, truncated: bool = False) -> None:
    """Write a file's first `layers` decoder layers as a model folder, without a tokenizer; None: all, and the head.

    Args:
        truncated: let the configuration say that the model has no more layers than those.

    Raises:
        TargetError: tensors that are missing, unknown or of another shape, in a format that cannot be widened, or too
            little room on the disk.
    """
    architecture = architecture_of(header)
    facts = _write_config(header, layers if truncated else None, out)
    wanted = _shapes(header, out / CONFIG, facts["num_hidden_layers"] if layers is None else layers)
    places = {}
    for name in header.tensors:
        place = architecture.place(name)
        if place is None and name != ROPE:
            raise _misfit(header, f"tensor {name[:80]!r} has no place in such a model")
        if place is not None and (layers is None or is_wanted(place, layers, "model.")):
            places[place] = name
    if missing := sorted(wanted.keys() - places.keys() - ({"lm_head.weight"} if layers is not None else set())):
        raise _misfit(header, f"{len(missing)} tensors are missing ({', '.join(missing[:3])})")
    for place, name in places.items():
        if wanted.get(place) != header.tensors[name].shape:
            raise _misfit(header, f"{name[:80]!r} is {header.tensors[name].shape}, not {wanted.get(place)}")
    _require_room(header, places.values(), out)
    groups: dict[int | None, list[str]] = {}
    for place in places:
        groups.setdefault(layer_of(place), []).append(place)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups.values()):
        file = f"model-{number:05}.safetensors"
        read = {place: _read(header, header.tensors[places[place]]) for place in group}
        _save({place: architecture.undo(places[place], x, facts) for place, x in read.items()}, out / file)
        weight_map |= dict.fromkeys(group, file)
    (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")


def _misfit(header: Header, text: str) -> TargetError:
    return TargetError(
        f"{header.path}: {text}; it is damaged, or made by a converter that is not known here: give the model's own "
        "folder or hub id instead"
    )


def _shapes(header: Header, config: Path, layers: int) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of the model, up to a layer, counted without allocating any."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        found = AutoConfig.from_pretrained(config.parent, num_hidden_layers=layers, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found, trust_remote_code=False)
    except Exception as error:  # whatever torch and transformers raise at sizes that cannot be
        raise TargetError(
            f"{header.path}: its metadata describe no model that can be built ({first_line(error)}); get the file again"
        ) from None
    tied = {"lm_head.weight"} if found.tie_word_embeddings else set()
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def _read(header: Header, tensor: Tensor) -> Any:
    """A tensor as torch has it: plain ones in their own precision, quantised ones widened to float32.

    Raises:
        TargetError: in a format that cannot be widened, or the file cannot be read.
    """
    import gguf
    import torch

    kind = gguf.GGMLQuantizationType[tensor.kind]
    try:
        raw = np.fromfile(header.path, np.uint8, tensor.size, offset=tensor.start)
    except OSError as error:
        raise TargetError(f"{header.path}: cannot be read ({error.strerror}); get the file again") from None
    if len(raw) < tensor.size:
        raise TargetError(f"{header.path}: was cut off while it was read; get the file again")
    if tensor.kind in _PLAIN:
        stored = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[tensor.kind]
        return torch.from_numpy(raw).view(stored).reshape(tensor.shape)
    rows = raw.reshape(tensor.count // tensor.shape[-1], -1)
    wide = np.empty((len(rows), tensor.shape[-1]), np.float32)
    step = max(1, _CHUNK // tensor.shape[-1])
    try:
        with np.errstate(all="ignore"):  # at values that are not finite, which the scan names
            for start in range(0, len(rows), step):
                wide[start : start + step] = gguf.dequantize(rows[start : start + step], kind)
    except NotImplementedError:
        raise TargetError(
            f"{header.path}: {tensor.name[:80]!r} is stored as {tensor.kind}, which the gguf package does not widen; "
            "pip install -U gguf, or get the model in another quantisation"
        ) from None
    return torch.from_numpy(wide).reshape(tensor.shape)


def _save(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"format": "pt"})


def _require_room(header: Header, names: Any, out: Path) -> None:
    need = sum(_bytes(header.tensors[name]) for name in names)
    free = shutil.disk_usage(out).free
    if free < need:
        raise TargetError(
            f"{header.path}: widened it takes {need / 1e9:.1f} GB, and {cache_dir()} has {free / 1e9:.1f} GB free; set "
            "GEOFILTER_CACHE to a folder with more"
        )


def _bytes(tensor: Tensor) -> int:
    return tensor.size if tensor.kind in _PLAIN else 4 * tensor.count
