"""SAEs as their trainers save them: folders of dictionary_learning and of EleutherAI's sparsify.

Converted by their own formulas into a SAELens folder's configuration and weights. sae-lens has loaders for both, which
take every hook for the residual stream, and read sparsify's weights in bfloat16 and its decoder the wrong way round.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.target import hub
from geofilter.target.hooks import RESIDUAL, Hook
from geofilter.target.sae_folder import CFG, WEIGHTS, checked, read_json, value_of

DICTIONARY, SPARSIFY = "ae.pt", "sae.safetensors"
"""the weights' file, which tells the layouts apart"""
_TRAINING = "config.json"
"""how it was trained; of sparsify it lies beside the SAEs' folders"""

# dictionary_learning's classes: the architecture that computes the same, and whether b_dec is taken from the input.
_CLASSES = {
    "AutoEncoder": ("standard", True),
    "AutoEncoderNew": ("standard", False),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),  # at inference by the threshold that training kept
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
}
# Names of the weights of one class or another; the first two are stored the other way round.
_NAMES = {
    "W_enc": ("W_enc", "encoder.weight"),
    "W_dec": ("W_dec", "decoder.weight"),
    "b_enc": ("b_enc", "encoder.bias"),
    "b_dec": ("b_dec", "bias", "decoder.bias"),
    "threshold": ("threshold",),
}


def is_one(folder: Path) -> bool:
    """True for a folder on this machine in one of these layouts."""
    return not (folder / WEIGHTS).is_file() and any((folder / name).is_file() for name in (DICTIONARY, SPARSIFY))


def below(folder: Path) -> list[str]:
    """The folders of SAEs in any layout, one or two levels below a folder."""
    files = (path for name in (WEIGHTS, DICTIONARY, SPARSIFY) for depth in ("*", "*/*")
             for path in folder.glob(f"{depth}/{name}"))  # fmt: skip
    return sorted({str(path.parent) for path in files})


def fetch_configuration(repo: str, path: str, download: Callable[[str, str], str], offline: bool) -> Path | None:
    """The folder of the hub's cache with the configuration of an SAE in one of these layouts; None for SAELens' own.

    Args:
        path: of the SAE's folder in the repository.
        download: given repository and file; raises huggingface_hub's EntryNotFoundError for one that is not there.
        offline: what is not in the cache may as well not be there.

    Raises:
        TargetError: files that cannot be had.
    """
    from huggingface_hub.errors import EntryNotFoundError

    unknown: hub.Uncached | None = None
    try:
        folder = Path(download(repo, f"{path}/{CFG}")).parent
        if not _of_sparsify(read_json(folder / CFG)):
            return None
        with suppress(EntryNotFoundError, *([hub.Uncached] if offline else [])):
            download(repo, _TRAINING if "/" not in path else f"{path.rsplit('/', 1)[0]}/{_TRAINING}")
        return folder
    except EntryNotFoundError:
        pass
    except hub.Uncached as error:
        if not offline:
            raise
        unknown = error  # it may be that there is none
    try:
        return Path(download(repo, f"{path}/{_TRAINING}")).parent
    except (EntryNotFoundError, hub.Uncached):
        if unknown is not None:
            raise unknown from None
        return None


def weights_of(folder: Path) -> str:
    """Name of the weights' file: the one that is there, or before they are fetched by the configuration."""
    there = [name for name in (SPARSIFY, DICTIONARY) if (folder / name).is_file()]
    if len(there) == 1:
        return there[0]
    return SPARSIFY if (folder / CFG).is_file() else DICTIONARY


def configuration(folder: Path) -> dict[str, Any]:
    """What the SAE computes, as SAELens' cfg.json has it.

    Raises:
        TargetError: unreadable, an odd value, or a kind of SAE or a place of the model that is not supported.
    """
    name = weights_of(folder)
    needed, library = (CFG, "sparsify") if name == SPARSIFY else (_TRAINING, "dictionary_learning")
    if not (folder / needed).is_file():
        raise TargetError(
            f"{folder}: has {name} but no {needed}, in which {library} says how the SAE was trained; get the whole "
            "folder"
        )
    if name == SPARSIFY:
        return checked(_sparsify(folder), folder / CFG)
    return checked(_dictionary(folder), folder / _TRAINING)


def weights(folder: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """The SAE's tensors in float32, by SAELens' names and in its shapes.

    Raises:
        TargetError: unreadable, pickled code, or not what the configuration says.
    """
    import torch

    path = folder / weights_of(folder)
    try:
        if path.name == SPARSIFY:
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise TargetError(f"{path}: holds pickled code, which is never run; use an SAE of plain tensors") from None
    except Exception as error:  # whatever torch and safetensors raise on files that are not what they should be
        raise TargetError(f"{path}: cannot be read ({first_line(error)}); get its files again") from None
    if not isinstance(found, dict):
        raise TargetError(f"{path}: holds no weights by name; get its files again")
    d_in, d_sae = cfg["d_in"], cfg["d_sae"]
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    if cfg["architecture"] == "jumprelu":
        shapes["threshold"] = (d_sae,)
    out = {}
    for name, shape in shapes.items():
        stored = next((other for other in _NAMES[name] if other in found), None)
        if stored is None:
            raise TargetError(f"{path}: has no {' or '.join(_NAMES[name])}; get its files again")
        value = found[stored].float()
        if stored.endswith(".weight"):
            value = value.T
        if name == "threshold" and value.ndim == 0:
            value = value.expand(d_sae)
        if tuple(value.shape) != shape:
            raise TargetError(f"{path}: {stored} has the shape {tuple(found[stored].shape)}, not as its configuration "
                              f"says: {d_in} dimensions, {d_sae} features")  # fmt: skip
        out[name] = value.contiguous()
    return out


def _plain(architecture: str, d_in: int, d_sae: int, subtracts: bool, hook: Hook, model: str, k: int) -> dict[str, Any]:
    return {
        "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": subtracts, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": str(hook), **({"model_name": model} if model else {})},
        **({"k": k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
    }  # fmt: skip


def _dictionary(folder: Path) -> dict[str, Any]:
    path = folder / _TRAINING
    found = read_json(path)
    trainer = value_of(found, "trainer", path, dict)
    kind = value_of(trainer, "dict_class", path, str)
    if kind not in _CLASSES:
        raise TargetError(f"{path}: dict_class {kind} is not supported; it must be {', '.join(_CLASSES)}")
    architecture, subtracts = _CLASSES[kind]
    hook = _place_of(trainer, path)
    if value_of(found, "buffer", path, dict, {}).get("io") == "in":
        hook = Hook(hook.layer, "hook_resid_pre")
    return _plain(
        architecture, value_of(trainer, "activation_dim", path), value_of(trainer, "dict_size", path), subtracts, hook,
        value_of(trainer, "lm_name", path, str, ""), value_of(trainer, "k", path) if architecture == "topk" else 0,
    )  # fmt: skip


def _place_of(trainer: dict[str, Any], path: Path) -> Hook:
    """A block of the model: `resid_post_layer_12` of the library's scripts, a module's name, or the layer alone."""
    name = value_of(trainer, "submodule_name", path, str, "")
    if not name and trainer.get("layer") is None:
        raise TargetError(f'{path}: does not say what it reads; add "layer": N to its trainer')
    if not name:
        layer = trainer["layer"]  # the first one is 0
        if type(layer) is not int or layer < 0:
            raise TargetError(f"{path}: layer is {json.dumps(layer)}; it must be a whole number")
        return Hook(layer, "hook_resid_post")
    try:
        hook = Hook.parse(name.strip().lower().replace("resid_post_layer_", "layers."))
    except TargetError:
        hook = None
    if hook is None or hook.kind not in RESIDUAL:
        raise TargetError(
            f"{path}: reads {name}, which is not supported; it must be resid_post_layer_N or model.layers.N"
        )
    return hook


def _of_sparsify(cfg: dict[str, Any]) -> bool:
    return "d_sae" not in cfg and ("num_latents" in cfg or "expansion_factor" in cfg)


def _sparsify(folder: Path) -> dict[str, Any]:
    path = folder / CFG
    cfg = read_json(path)
    plain = {"activation": ("topk", None), "signed": (False, None), "transcode": (False, None),
             "skip_connection": (False, None)}  # fmt: skip
    for key, allowed in plain.items():
        if cfg.get(key) not in allowed:
            raise TargetError(f"{path}: {key} = {cfg[key]!r} is not supported; it must be {str(allowed[0]).lower()}")
    d_in, k = value_of(cfg, "d_in", path), value_of(cfg, "k", path)
    if cfg.get("num_latents") in (None, 0):  # which stand for the other
        d_sae = d_in * value_of(cfg, "expansion_factor", path)
    else:
        d_sae = value_of(cfg, "num_latents", path)
    training = folder.parent / _TRAINING
    model = value_of(read_json(training), "model", training, str, "") if training.is_file() else ""
    name = value_of(cfg, "hook_name", path, str, "") or folder.name
    try:
        hook = Hook.parse(name)
    except TargetError:
        if Hook.within_block(name):
            raise TargetError(
                f"{folder}: reads {name}, a place within a block, which is not supported; use an SAE of a whole block "
                "(layers.N)"
            ) from None
        raise TargetError(
            f"{folder}: the place of the model that it reads cannot be told from the name {name}; add "
            f'"hook_name": "blocks.N.hook_resid_post" to its {CFG}'
        ) from None
    return _plain("topk", d_in, d_sae, True, hook, model, k)
