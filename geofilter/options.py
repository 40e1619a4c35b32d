"""What the commands share: option types, notes on stderr, and options from the settings file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from geofilter.config import Loading, TargetChoice, settings
from geofilter.errors import InputError

Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
System = Annotated[
    str, typer.Option(help="System turns: keep, or fold into the user turn that follows (Gemma knows none).")
]

_TARGET = "Target"
_LOADING = "Device and memory"
TARGET_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (str | None, typer.Option(
        help="Name (see `geofilter targets`), Hugging Face id or model folder.", rich_help_panel=_TARGET)),
    "sae": (str | None, typer.Option(
        help="RELEASE/SAE_ID of sae-lens, ORG/REPO/FOLDER, or a SAELens folder; a named target has its own.",
        rich_help_panel=_TARGET)),
    "layer": (int | None, typer.Option(help="Layer of a named target's SAE.", rich_help_panel=_TARGET)),
    "width": (str | None, typer.Option(help="Width of a named target's SAE, 16k for instance.",
                                       rich_help_panel=_TARGET)),
    "revision": (str | None, typer.Option(help="Commit, tag or branch of the model.", rich_help_panel=_TARGET)),
    "sae_revision": (str | None, typer.Option(help="Commit, tag or branch of the SAE.", rich_help_panel=_TARGET)),
    "llama_scope_gate": (str, typer.Option(
        help="Llama Scope only. saelens: as sae-lens gates; upstream: times decoder norm, as trained.",
        rich_help_panel=_TARGET)),
    "allow_other_model": (bool, typer.Option(
        "--allow-other-model", help="Take an SAE trained on another model, of which this is a fine-tune.",
        rich_help_panel=_TARGET)),
}  # fmt: skip
LOADING_OPTIONS: dict[str, tuple[Any, Any]] = {
    "device": (str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_LOADING)),
    "dtype": (str, typer.Option(
        help="Of the model: auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.",
        rich_help_panel=_LOADING)),
    "sae_dtype": (str, typer.Option(
        help="Of the stored SAE encoder: float32, or bfloat16 for half the memory.", rich_help_panel=_LOADING)),
    "device_map": (str | None, typer.Option(
        help="Spread the layers over several GPUs: auto, balanced, balanced_low_0 or sequential.",
        rich_help_panel=_LOADING)),
}  # fmt: skip
_TYPES: dict[type, str] = {int: "an integer", bool: "true or false", str: "a string"}
_GROUPS: dict[str, tuple[Any, dict[str, tuple[Any, Any]]]] = {
    "choice": (TargetChoice, TARGET_OPTIONS),
    "loading": (Loading, LOADING_OPTIONS),
}


def with_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command's `choice` (and `loading`) parameter as the options that make it.

    `choice: TargetChoice` becomes --model, --sae and the others of `TARGET_OPTIONS`, `loading: Loading` those of
    `LOADING_OPTIONS`; each may also stand in the settings file. The command needs `ctx: typer.Context`.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: _GROUPS[name] for name in signature.parameters if name in _GROUPS}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kind, options = groups[name]
        defaults = kind()
        for key, (annotation, option) in options.items():
            parameters.append(
                inspect.Parameter(
                    key, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, key),
                    annotation=Annotated[annotation, option],
                )
            )  # fmt: skip

    @wraps(command)
    def run(**given: Any) -> None:
        for name, (kind, options) in groups.items():
            values = {key: given.pop(key) for key in options}
            kinds = {key: annotation for key, (annotation, _) in options.items()}
            without = _overruled(given["ctx"]) if name == "choice" else set()
            given[name] = kind(**from_settings(given["ctx"], values, kinds, without))
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def note(text: str) -> None:
    """Lines on stderr; what a terminal would act on (escapes in data or in a bank's labels) is replaced."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text), err=True)


def notifier(quiet: bool) -> Callable[[str], None]:
    """`note`, or nothing when quiet; then the bars that pip, transformers and the hub draw are off too."""
    if not quiet:
        return note
    os.environ |= {"PIP_QUIET": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return lambda text: None


def _typed(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _overruled(ctx: typer.Context) -> set[str]:
    """Settings that belong to the model or SAE of the settings file, when another is typed on the command line."""
    of_the_sae = {"layer", "width", "sae_revision", "llama_scope_gate", "allow_other_model"}
    if _typed(ctx, "model"):
        return {"sae", "revision", *of_the_sae}
    return of_the_sae if _typed(ctx, "sae") else set()


def from_settings(
    ctx: typer.Context, given: dict[str, Any], kinds: dict[str, Any], without: set[str] | frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Options typed on the command line win over the settings file, which wins over the defaults.

    Keys of the settings file that a command has no option for are passed over; `check_settings` refuses those
    that no option has.

    Args:
        kinds: type of each option; a `list[str]` may also be one string in the file.
        without: settings that do not count this time.

    Raises:
        InputError: a value of the settings file has another type than the option.
    """
    found = settings(Path.cwd())
    out = dict(given)
    for key in set(found) & set(given) - without:
        if _typed(ctx, key):
            continue
        value, kind = found[key], kinds[key]
        values = value if kind == list[str] and isinstance(value, list) else [value]
        for each, named in _TYPES.items():
            if kind in (each, each | None, list[each]) and any(type(v) is not each for v in values):  # type: ignore[valid-type]
                raise InputError(f"settings file: {key} = {value!r} must be {named}")
        out[key] = values if kind == list[str] else value
    return out


def check_settings(keys: set[str]) -> None:
    """Refuse settings that no option has, so that a misspelt one is not silently without effect.

    Raises:
        InputError: an unknown key; names those that are known.
    """
    unknown = sorted(set(settings(Path.cwd())) - keys)
    if unknown:
        raise InputError(f"settings file: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys))}")
