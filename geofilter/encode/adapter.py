"""A LoRA adapter, merged by peft into the layers that are there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from geofilter.errors import TargetError, first_line
from geofilter.target.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from geofilter.target.decoder import layer_of

_SAVED = "base_model.model."
"""before every name in an adapter's file"""


_PLACE = re.compile(r"(.*?)\.(?:(?:layers|h)\.\d+|embed_tokens|wte)\.")
"""what stands before a decoder's blocks and its table of tokens"""


class _Placed(torch.nn.Module):
    """A decoder under the name that it has in its whole model, since adapters name modules by that.

    Args:
        place: the name, with dots where the model is nested: `model.language_model`.
    """

    def __init__(self, decoder: Any, place: str) -> None:
        super().__init__()
        self.config, self.base_model_prefix = decoder.config, place.partition(".")[0]  # which peft asks for
        self._place = place
        inner: torch.nn.Module = self
        *outer, last = place.split(".")
        for name in outer:
            inner.add_module(name, torch.nn.Module())
            inner = inner.get_submodule(name)
        inner.add_module(last, decoder)

    def get_input_embeddings(self) -> Any:
        """The table of tokens, which peft looks for where an adapter trains single tokens."""
        decoder: Any = self.get_submodule(self._place)
        return decoder.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """None: there is no head here."""


def merge(model: Any, adapter: Path) -> None:
    """Merge an adapter into a model in place, as far as the model has the layers that it changes.

    Args:
        model: a whole model, or a decoder of which the first layers and no head are built: what the adapter has for
            others is left out.
        adapter: folder as peft saves it.

    Raises:
        TargetError: peft is not installed, the adapter cannot be read, or it was made for another model.
    """
    try:
        import peft
    except ImportError:
        raise TargetError(
            f"{adapter}: an adapter is merged by peft, which is not installed: pip install 'geofilter[trial]'"
        ) from None
    try:
        # peft first fills the adapter with random values; whoever draws after this draws as without it.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=()):
            # Of names that were changed or that it cannot save; what is wrong raises, or is looked for below.
            warnings.simplefilter("ignore")
            odd = _merge(peft, model, adapter)
    except TargetError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever peft, safetensors and torch raise on files that are not what they should be
        raise _misfit(adapter, model, _reason(error)) from None
    if odd:
        raise _misfit(adapter, model, f"{len(odd)} of its weights have no place or no value: {odd[0]}")


def _misfit(adapter: Path, model: Any, reason: str) -> TargetError:
    return TargetError(
        f"{adapter}: the adapter does not fit this {type(model).__name__} ({reason}); give the base model that its "
        f"{ADAPTER_CONFIG} names"
    )


def _reason(error: Exception) -> str:
    """A line of the message that says what is wrong: torch's first one does not, of shapes."""
    mismatch = re.search(r"size mismatch for .*", str(error))
    return mismatch[0] if mismatch else first_line(error)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{path}: cannot be read ({first_line(error)}); get a complete copy of the adapter") from None


def _place(found: dict[str, torch.Tensor], decoder: Any) -> str:
    """Where the whole model of an adapter has its text decoder, by the names of the weights; empty for a bare decoder.

    A vision tower's blocks have a number too: the text decoder is `language_model`, or what it is by itself.
    """
    places = {match[1] for key in found if (match := _PLACE.match(key.removeprefix(_SAVED)))}
    nested = sorted(place for place in places if {"language_model", "text_model"} & set(place.split(".")))
    if nested:
        return nested[0]
    return str(decoder.base_model_prefix) if decoder.base_model_prefix in places else ""


def _put(holder: torch.nn.Module, found: dict[str, torch.Tensor]) -> list[str]:
    """Put an adapter's whole modules in place, where it changes none of the layers that are there besides.

    peft refuses an adapter that has nothing to change but these.

    Returns:
        names of weights that have no place.
    """
    odd = holder.load_state_dict({key.removeprefix(_SAVED): value for key, value in found.items()}, strict=False)
    return list(odd.unexpected_keys)


def _merge(peft: Any, model: Any, adapter: Path) -> list[str]:
    """Names of weights that were not taken, or were not there."""
    decoder = model.base_model
    found = _weights(adapter / ADAPTER_WEIGHTS)
    if not found:
        return [ADAPTER_WEIGHTS]
    if astray := [key for key in found if not key.startswith(_SAVED)]:
        return astray
    place = _place(found, decoder)
    own = decoder is not model and place == decoder.base_model_prefix
    holder = model if own else _Placed(decoder, place) if place else decoder
    if not own:
        if place:
            # Of a multimodal model's adapter: what changes how images are read changes nothing for text.
            head = {} if decoder is model else {k: v for k, v in found.items() if "lm_head" in k.split(".")}
            found = {key: v for key, v in found.items() if key.startswith(f"{_SAVED}{place}.")} | head
        built = int(model.config.num_hidden_layers)
        found = {key: value for key, value in found.items() if (layer_of(key) or 0) < built}
        if not found:
            return []
    config = peft.PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = True
    config.megatron_config = None  # with one, peft imports whatever module the configuration names
    if config.layer_replication:
        raise TargetError(f"{adapter}: it repeats layers (layer_replication), so its layers are not those of its base")
    if config.modules_to_save:
        there = {name.rsplit(".", 1)[-1] for name, _ in holder.named_modules()}
        config.modules_to_save = [name for name in config.modules_to_save if name.rsplit(".", 1)[-1] in there] or None
    if not any(".lora_" in key for key in found):
        return _put(holder, found)
    tuned = peft.PeftModel(holder, config)
    report = peft.set_peft_model_state_dict(tuned, found)
    missing = [key for key in report.missing_keys if ".lora_" in key]
    tuned.merge_and_unload(safe_merge=True)
    return [*report.unexpected_keys, *missing]
