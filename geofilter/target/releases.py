"""Published SAEs: what sae-lens' loaders return for a release, kept as a SAELens folder in the cache.

sae-lens knows every release's layout; importing it costs seconds, so that is done once for an SAE. What is
kept is `cfg.json` and `sae_weights.safetensors` (float32, all scalings folded in), which `sae.FeatureEncoder`
reads, and `source.json`: where it came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.files import Notify, file_sha256, made_once, slug
from geofilter.target import gates, hub, layouts
from geofilter.target.directory import find, model_of
from geofilter.target.sae_folder import ARCHITECTURES, CFG, SOURCE, WEIGHTS, checked, kept_saes, read_json

FORMAT = 2
"""of the kept folder; a higher one makes them anew"""


def published(
    spec: str,
    check: Callable[[dict[str, Any]], object],
    *,
    gate: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    notify: Notify = print,
) -> Path:
    """The folder of a published SAE, converted on first use.

    Args:
        spec: `RELEASE/SAE_ID` as sae-lens names it, or `ORG/REPO/FOLDER` of any hub repository that a release lists, or
            that is laid out by SAELens, dictionary_learning or sparsify.
        check: called with the SAE's configuration before its weights are fetched; raises what does not fit.
        gate: for Llama Scope, see `gates`; as it was trained when None.
        revision: commit, tag or branch of the SAE's repository.

    Raises:
        InputError: a gate that the SAE does not have.
        TargetError: no such release or SAE, files that cannot be had, or a kind that is not supported.
    """
    gates.check(gate)
    key = hashlib.sha256(f"{FORMAT} {spec} {gate or gates.UPSTREAM} {revision or ''}".encode()).hexdigest()[:12]
    folder = made_once(
        kept_saes() / f"{slug(spec)}-{key}",
        _is_kept,
        lambda folder: _convert(folder, spec, check, gate, revision, offline, notify),
        notify,
    )
    gates.check_has(gate, read_json(folder / SOURCE).get("llama_scope_gate"), spec)
    return folder


def _is_kept(folder: Path) -> bool:
    return (folder / SOURCE).is_file()


def _convert(
    folder: Path,
    spec: str,
    check: Callable[[dict[str, Any]], object],
    asked: str | None,
    revision: str | None,
    offline: bool,
    notify: Notify,
) -> None:
    notify(f"reading the SAE {spec} with sae-lens, once ...")
    release, sae_id, info = find(spec)
    gate = gates.chosen(asked, info, spec)
    path = info.saes_map[sae_id] if info else sae_id
    scale = (info.norm_scaling_factor.get(sae_id) if info else None) or 1.0
    with pinned(revision, offline, path) as files:
        if info is None and (loaded := _other_layout(release, sae_id, spec, check, offline)) is not None:
            weights, cfg = loaded
        else:
            sae, cfg = _load(release, sae_id, spec, check, info)
            if gate == gates.UPSTREAM:
                gates.as_trained(sae, info, scale, files)
            weights = _weights(sae)
    source = {
        "sae": spec,
        "files": files,
        "llama_scope_gate": gate,
        "norm_scaling_factor": scale if gate else None,
        "neuronpedia": info.neuronpedia_id.get(sae_id) if info else None,
        "sae_lens": version("sae-lens"),
    }
    _save(folder, weights, cfg, source)


def _other_layout(
    repo: str, path: str, spec: str, check: Callable[[dict[str, Any]], object], offline: bool
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Weights and configuration of an SAE that is not in SAELens' layout; within `pinned`."""
    from huggingface_hub import constants
    from sae_lens.loading import pretrained_sae_loaders as loaders

    offline = offline or constants.is_offline_mode()
    with _told(spec):
        folder = layouts.fetch_configuration(repo, path, loaders.hf_hub_download, offline)
        if folder is None:
            return None
        cfg = layouts.configuration(folder)
        check(cfg)
        loaders.hf_hub_download(repo, f"{path}/{layouts.weights_of(folder)}")
        return layouts.weights(folder, cfg), cfg


def converted(folder: Path, notify: Notify) -> Path:
    """A folder of the user's own in a layout of `layouts`, kept in SAELens' layout.

    Raises:
        TargetError: it cannot be read, or a kind that is not supported.
    """
    cfg = layouts.configuration(folder)
    own = file_sha256(folder / layouts.weights_of(folder))
    key = hashlib.sha256((json.dumps(cfg) + own).encode()).hexdigest()[:12]

    def make(out: Path) -> None:
        notify(f"reading the SAE {folder}, once ...")
        _save(out, layouts.weights(folder, cfg), cfg, {"sae": str(folder)})

    return made_once(kept_saes() / f"{slug(folder.resolve().name)}-{key}", _is_kept, make, notify)


def modernised(folder: Path, notify: Notify) -> Path:
    """A SAELens folder of an older format (hook name outside `metadata`), read by sae-lens and kept in today's.

    Raises:
        TargetError: sae-lens cannot read it, or a kind that is not supported.
    """
    weights = folder / WEIGHTS
    stated = read_json(folder / CFG)
    hook = stated.get("hook_name") or stated.get("hook_point")  # where the oldest have it
    metadata = stated.get("metadata") or {"hook_name": hook, "model_name": stated.get("model_name")}
    # Each old format has the architecture and its k elsewhere; sae-lens finds them.
    checked({**stated, "metadata": metadata, "architecture": None}, folder / CFG)
    key = hashlib.sha256((file_sha256(folder / CFG) + file_sha256(weights)).encode()).hexdigest()[:12]

    def make(out: Path) -> None:
        from sae_lens import SAE

        notify(f"reading the SAE {folder} with sae-lens, once ...")
        with _told(str(folder)):
            sae = SAE.load_from_disk(folder, dtype="float32")
            # sae-lens drops the metadata of a folder that does not say which version of it wrote it.
            sae.cfg.metadata.hook_name = metadata["hook_name"]
            sae.cfg.metadata.model_name = metadata.get("model_name")
            if processed := metadata.get("model_from_pretrained_kwargs"):
                sae.cfg.metadata.model_from_pretrained_kwargs = processed
            cfg = _supported(sae, str(folder))
            _save(out, _weights(sae), cfg, {"sae": str(folder), "sae_lens": version("sae-lens")})

    return made_once(kept_saes() / f"{slug(folder.resolve().name)}-{key}", _is_kept, make, notify)


@contextmanager
def pinned(revision: str | None, offline: bool, sae_path: str) -> Iterator[list[dict[str, str]]]:
    """sae-lens' loaders fetch at this revision, and offline if so asked, for this block; yields the files they took.

    Its functions know neither, and their errors are the hub's raw ones. All of them fetch by one name of one module,
    and read tensors' shapes by another.

    Args:
        sae_path: the SAE's file or folder in the repository, to be named when something of it is missing.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    taken: list[dict[str, str]] = []

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        name = f"{subfolder}/{filename}" if subfolder else filename
        if name.endswith("/sparsity.safetensors"):  # statistics that some repositories have; nothing here needs them
            raise EntryNotFoundError(name)
        get = f"--include '{sae_path}/*'" if name.startswith(f"{sae_path}/") else None
        try:
            path = hub.fetch(repo_id, name, revision=revision, offline=offline, get=get)
        except hub.Absent as error:
            raise EntryNotFoundError(str(error)) from None  # sae-lens knows what to do without some files
        except hub.Uncached:
            # Not every repository of Gemma Scope 2 has one: offline what is not in the cache is not there.
            weights = name.removesuffix("config.json") + "params.safetensors"
            known = offline or constants.is_offline_mode()
            if not (known and weights == f"{sae_path}/params.safetensors" and hub.in_cache(repo_id, weights, revision)):
                raise
            raise EntryNotFoundError(name) from None
        file = {"repo": repo_id, "name": name, "path": str(path), "commit": _commit(path)}
        if file not in taken:
            taken.append(file)
        return str(path)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(download(repo_id, filename), framework="pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)

    replaced = {"hf_hub_download": download, "get_safetensors_tensor_shapes": shapes}
    theirs = {name: getattr(loaders, name) for name in replaced}
    # Pickled weights are only ever read as plain tensors: torch's default, which this variable would turn off.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        for name, ours in replaced.items():
            setattr(loaders, name, ours)
        yield taken
    finally:
        for name, original in theirs.items():
            setattr(loaders, name, original)


def _commit(path: Path) -> str:
    """Of .../models--ORG--NAME/snapshots/COMMIT/FILE."""
    parts = path.parts
    return next(parts[i + 1] for i in reversed(range(len(parts))) if parts[i] == "snapshots")


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Whatever sae-lens and torch raise on files that are not what they should be, as one clear error."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    except TargetError:
        raise
    except EntryNotFoundError as error:
        raise TargetError(f"{where}: {first_line(error)}; check the SAE's id and --sae-revision") from None
    except pickle.UnpicklingError:
        raise TargetError(f"{where}: holds pickled code, which is never run; use a release of plain tensors") from None
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise TargetError(f"{where}: sae-lens cannot read it ({what}); get its files again") from None


def _load(
    release: str, sae_id: str, spec: str, check: Callable[[dict[str, Any]], object], info: Any
) -> tuple[Any, dict[str, Any]]:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    with _told(spec):
        raw = load_sae_config_from_huggingface(release, sae_id)
        # What sae-lens' directory adds about a release stands beside the metadata, not in it.
        processed = raw.get("model_from_pretrained_kwargs")
        model = model_of(raw["metadata"].get("model_name"), info)
        check({**raw, "metadata": {"model_from_pretrained_kwargs": processed, **raw["metadata"], "model_name": model}})
        sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
        cfg = _supported(sae, spec)
        cfg["metadata"]["model_name"] = model
        check(cfg)
    return sae, cfg


def _supported(sae: Any, where: str) -> dict[str, Any]:
    """The SAE's configuration in today's SAELens form; scalings by decoder norm are folded into the weights.

    Raises:
        TargetError: an architecture or a normalisation that `sae.FeatureEncoder` does not compute.
    """
    cfg = sae.cfg
    architecture = cfg.architecture()
    if architecture not in ARCHITECTURES:
        raise TargetError(f"{where}: architecture {architecture} is not supported; use {', '.join(ARCHITECTURES)}")
    if cfg.normalize_activations not in ("none", None):
        raise TargetError(
            f"{where}: normalises its input ({cfg.normalize_activations}), which is not supported; "
            "fold the scaling into the weights first"
        )
    if getattr(cfg, "rescale_acts_by_decoder_norm", False):
        # Selection by activation times decoder norm is plain selection once the norms are in the encoder.
        sae.fold_W_dec_norm()
    metadata = {"model_name": cfg.metadata.model_name, "hook_name": cfg.metadata.hook_name}
    kwargs = cfg.metadata.model_from_pretrained_kwargs
    found = {
        "architecture": architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": bool(cfg.apply_b_dec_to_input),
        "normalize_activations": "none",
        # A hook_z SAE reads the heads side by side, which is how the model's projection gets them.
        "reshape_activations": "none",
        "metadata": {**metadata, **({"model_from_pretrained_kwargs": kwargs} if kwargs else {})},
        **({"k": cfg.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
    }
    return checked(found, where)


def _weights(sae: Any) -> dict[str, Any]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return {name: getattr(sae, name).data.float().contiguous() for name in names if hasattr(sae, name)}


def _save(folder: Path, weights: dict[str, Any], cfg: dict[str, Any], source: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(weights, folder / WEIGHTS)
    (folder / CFG).write_text(json.dumps(cfg, indent=1), "utf-8")
    source |= {"weights_sha256": file_sha256(folder / WEIGHTS), "cfg_sha256": file_sha256(folder / CFG)}
    (folder / SOURCE).write_text(json.dumps(source, indent=1), "utf-8")
