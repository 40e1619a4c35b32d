"""What a choice of a target means, before anything has been fetched: names looked up, options that must go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geofilter.config import TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.files import package_data
from geofilter.target import adapters, hub
from geofilter.target.gguf import is_gguf
from geofilter.target.named import known, pick, sae_of
from geofilter.text import did_you_mean

NEEDS_SAE = (
    "not one of the named targets (geofilter targets lists them), so it needs an SAE: --sae RELEASE/SAE_ID of "
    "sae-lens, --sae DIR, --sae NAME of the target it was fine-tuned from, or one made by geofilter sae train"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice with its references looked up; nothing has been fetched yet."""

    alias: str | None
    row: dict[str, Any] | None
    model: str
    """hub id, folder or GGUF file"""
    sae: str
    """RELEASE/SAE_ID, ORG/REPO/FOLDER or folder"""
    choice: TargetChoice
    """with layer and width of a named target filled in"""
    giver: dict[str, Any] | None = None
    """row of the named target whose SAE it is: the model's own, or the one that --sae names"""

    @property
    def embedded(self) -> tuple[str, dict[str, Any]] | None:
        """Alias and row of a named target whose model comes in a wheel."""
        if self.alias is None or self.row is None or "wheel" not in self.row:
            return None
        return self.alias, self.row

    @classmethod
    def of(cls, choice: TargetChoice) -> Plan:
        """Look a choice's references up.

        Raises:
            InputError: options that do not go together.
            TargetError: no model, or none of such a name, or one that needs an SAE and names none.
        """
        table = known()
        if choice.model is None:
            raise TargetError(
                'no model chosen; pass --model NAME (geofilter targets lists them) or put model = "NAME" into '
                "geofilter.toml"
            )
        row = table.get(choice.model)
        if row is None:
            refuse_no_model(choice.model)
        name, giver = (choice.model, row) if choice.sae is None else (choice.sae, table.get(choice.sae))
        if giver is None and (choice.layer is not None or choice.width is not None):
            raise InputError(
                "--layer and --width choose within a named target (geofilter targets lists them); name the SAE by --sae"
                if row is None
                else "--layer and --width choose the SAE, and so does --sae; give one or the other"
            )
        model = row["model"] if row else choice.model
        if giver is None:
            if choice.sae is None:
                raise TargetError(f"--model {choice.model}: {NEEDS_SAE}{did_you_mean(choice.model, table)}")
            return cls(choice.model if row else None, row, model, choice.sae, choice)
        layer, width = pick(name, giver, choice.layer, choice.width)
        sae = str(package_data(giver["package_sae"])) if "package_sae" in giver else sae_of(giver, layer, width)
        return cls(choice.model if row else None, row, model, sae, replace(choice, layer=layer, width=width), giver)


def refuse_no_model(model: str) -> None:
    """Refuse what is no named target and cannot be a model by itself: a folder, a GGUF file or a hub id.

    Raises:
        TargetError: it is none of these.
    """
    path = Path(model)
    if path.is_dir() or is_gguf(path):
        return
    if path.is_file():
        raise TargetError(f"--model {model}: is a file, and no GGUF file; give its folder, or a name, hub id or .gguf")
    if path.suffix.lower() == ".gguf":
        raise TargetError(f"--model {model}: no such file")
    if not hub.REPO.fullmatch(model):
        raise TargetError(
            f"--model {model}: neither a named target (geofilter targets lists them), nor a folder, nor a GGUF file, "
            f"nor a hub id{did_you_mean(model, known())}"
        )


def with_base(choice: TargetChoice) -> TargetChoice:
    """The choice itself; of a folder with an adapter alone its base, a named target's where it has to give the SAE.

    Raises:
        InputError, TargetError: an adapter that cannot be read, or of a model that needs an SAE.
    """
    if choice.model is None or choice.model in known() or not adapters.stands_alone(Path(choice.model)):
        return choice
    found = adapters.with_base(choice, Path(choice.model), choice.model, choice.revision)
    if found.sae is not None:
        return found
    table = known()
    alias = next((name for name, row in table.items() if row["model"] == found.model), None)
    if alias is None:
        raise TargetError(f"--model {choice.model}: an adapter of {found.model}, which is {NEEDS_SAE}")
    return replace(found, model=alias)


def refuse_revisions(plan: Plan) -> None:
    """A revision of what is no repository would be without effect.

    Raises:
        InputError: one was given.
    """
    choice = plan.choice
    if choice.revision and (plan.embedded is not None or Path(plan.model).exists()):
        kind = "embedded" if plan.embedded else "a folder" if Path(plan.model).is_dir() else "a file"
        raise InputError(f"--revision {choice.revision}: {plan.model} is {kind}; revisions are of hub repositories")
    if choice.sae_revision and Path(plan.sae).is_dir():
        raise InputError(
            f"--sae-revision {choice.sae_revision}: the SAE is a folder; revisions are of hub repositories"
        )
