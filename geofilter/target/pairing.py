"""Does an SAE fit a model? Width, hook, processing and names, checked before any weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.target.decoder import layers_to_load
from geofilter.target.hooks import RESIDUAL, Hook
from geofilter.target.model_names import same_model
from geofilter.target.sae_folder import checked
from geofilter.target.size import layers_needed
from geofilter.target.staged import staged

_PROCESSED = ("center_writing_weights", "fold_ln")
"""TransformerLens' options that change the residual stream, or what is read of it"""


def model_config(folder: Path) -> Any:
    """The configuration of a model folder's text decoder, without what it says of how to load it, see `staged`.

    A model with Python code of its own is not loaded.

    Raises:
        TargetError: config.json cannot be read.
        ValueError and others of transformers: not a configuration it knows.
    """
    from transformers import AutoConfig

    with staged(folder) as shown:
        return AutoConfig.from_pretrained(shown, local_files_only=True, trust_remote_code=False)


def can_be_built(config: Any) -> bool:
    """True for a configuration of which transformers builds a model by itself; of some text decoders it does not."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return config.model_type in MODEL_MAPPING_NAMES


def hook_width(config: Any, hook: Hook) -> int:
    """Dimensions of the vectors at a hook: the residual stream's, or heads x head dimension for `attn.hook_z`."""
    if hook.kind != "attn.hook_z":
        return int(config.hidden_size)
    heads = int(config.num_attention_heads)
    return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


class ModelConfig:
    """What a model's configuration says about which SAEs fit it."""

    def __init__(self, model: str, folder: Path, named: bool, allow_other: bool, called: tuple[str, ...] = ()) -> None:
        self.model, self.named, self.allow_other = model, named, allow_other
        self.called = called or (model,)
        """names to compare with that of the SAE's model"""
        try:
            self.config: Any = model_config(folder)
            self.layers, _ = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise TargetError(
                f"{model}: not a decoder-only language model that transformers knows ({first_line(error)})"
            ) from None
        if not can_be_built(self.config):
            raise TargetError(
                f"{model}: its text decoder, {self.config.model_type}, is none that transformers builds by itself; "
                "give a text-only copy of the model"
            )

    def layers_to_load(self, layer: int) -> int:
        """Decoder layers that the files must hold to read one: the next one too, for the check of the pair."""
        return layers_to_load(self.config, layers_needed(layer, self.layers))

    def check(self, cfg: dict[str, Any], sae: str) -> tuple[Hook, tuple[str, ...]]:
        """Hook of an SAE that fits, and notes where it is not said to be of this very model.

        Raises:
            TargetError: another width, layer, hook, processing, another model, or an odd value.
        """
        metadata = checked(cfg, sae)["metadata"]
        refuse_processed(metadata, sae)
        hook = Hook.parse(metadata["hook_name"])
        if hook.layer >= self.layers:
            raise TargetError(f"{sae}: reads {hook}, but {self.model} has layers 0 to {self.layers - 1}")
        if hook.kind not in RESIDUAL:
            hook.sublayer(str(self.config.model_type), self.model)
        width = hook_width(self.config, hook)
        if cfg["d_in"] != width:
            raise TargetError(
                f"{sae}: the SAE reads {cfg['d_in']} dimensions, {hook} of {self.model} has {width}; "
                "they do not belong together"
            )
        return hook, self._names(metadata.get("model_name"), sae)

    def _names(self, trained_on: Any, sae: str) -> tuple[str, ...]:
        if not isinstance(trained_on, str) or not trained_on:
            return (
                f"the SAE does not say which model it was trained on; it reads {self.model} here, and geofilter doctor "
                "measures how well it fits",
            )
        same, variant = map(any, zip(*(same_model(trained_on, name) for name in self.called), strict=True))
        if same:
            return ()
        note = f"the SAE was trained on {trained_on} and reads {self.model} here"
        if variant:
            return (f"{note}: another training stage of the same model; geofilter doctor measures how well it fits",)
        if not self.named:
            kind = "file" if Path(self.model).is_file() else "folder"
            return (f"{note}; whether that {kind} holds the same model, its name does not say",)
        if self.allow_other:
            return (f"{note}, as allowed",)
        raise TargetError(
            f"{sae}: was trained on {trained_on}, not on {self.model}; choose an SAE of that model, or, if it is a "
            "fine-tune of the same, pass --allow-other-model"
        )


def refuse_processed(metadata: dict[str, Any], where: str) -> None:
    """An SAE trained on TransformerLens' processed weights does not fit the plain model.

    Raises:
        TargetError: `model_from_pretrained_kwargs` ask for processing.
    """
    asked = metadata.get("model_from_pretrained_kwargs") or {}
    found = [name for name in _PROCESSED if asked.get(name)]
    if found:
        raise TargetError(
            f"{where}: trained on weights that TransformerLens had processed ({', '.join(found)}); "
            "the plain model's residual stream is another one, so this SAE cannot be used"
        )
