"""What the commands share: option types, notes on stderr, and options from the settings file."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from geofilter.config import Loading, TargetChoice, settings
from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.store import Run

Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result.")]
ExcludeFeature = Annotated[
    list[str] | None,
    typer.Option(help="A feature that is to count nothing: N, or BANK:N for one bank; repeat for several."),
]
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
_GROUPS: dict[str, tuple[Any, dict[str, tuple[Any, Any]]]] = {
    "choice": (TargetChoice, TARGET_OPTIONS),
    "loading": (Loading, LOADING_OPTIONS),
}
_TYPES: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
_KNOWN: set[str] = set()
"""options of all commands that read the settings file"""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose options may stand in the settings file.

    `choice: TargetChoice` becomes --model, --sae and the others of `TARGET_OPTIONS`, `loading: Loading` those of
    `LOADING_OPTIONS`. The command needs `ctx: typer.Context`. Of its own options, those with a default are settings
    too, but for `as_json`, which belongs to one call.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: _GROUPS[name] for name in signature.parameters if name in _GROUPS}
    parameters: list[inspect.Parameter] = []
    kinds: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            if parameter.default is not parameter.empty and name != "as_json":
                kinds[name] = get_args(parameter.annotation)[0]
            continue
        kind, options = groups[name]
        defaults = kind()
        for key, (annotation, option) in options.items():
            kinds[key] = annotation
            parameters.append(
                inspect.Parameter(
                    key, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, key),
                    annotation=Annotated[annotation, option],
                )
            )  # fmt: skip
    _KNOWN.update(kinds)

    @wraps(command)
    def run(**given: Any) -> None:
        given |= from_settings(given["ctx"], kinds)
        for name, (kind, options) in groups.items():
            given[name] = kind(**{key: given.pop(key) for key in options})
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def note(text: str) -> None:
    """Lines on stderr; what a terminal would act on (escapes in data or in a bank's labels) is replaced."""
    typer.echo("\n".join(map(inert, text.split("\n"))), err=True)


def note_excluded(features: Sequence[dict[str, Any]], of: str = "") -> None:
    """Say which features count nothing, if any do not."""
    if features:
        named = ", ".join(f"{f['feature']} ({f['label']})" for f in features)
        note(f"{of}without the feature{'s' if len(features) > 1 else ''} {named}")


def inert(text: str) -> str:
    """The text with what a terminal would act on replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: first column left, the others right; wide enough for its text where stdout is no terminal.

    A row of one cell is the heading of those that follow.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for cells in rows:
        heading = len(cells) == 1 < len(head)
        if heading:
            table.add_section()
        table.add_row(*(Text(inert(c), style="bold" if heading else "") for c in cells))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def notifier(quiet: bool) -> Callable[[str], None]:
    """`note`, or nothing when quiet; then the bars that pip, transformers and the hub draw are off too."""
    if not quiet:
        return note
    os.environ |= {"PIP_QUIET": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return lambda text: None


StepSummary = Annotated[
    bool, typer.Option("--step-summary", help="Append it to the file that GITHUB_STEP_SUMMARY names.")
]


def summary_file(wanted: bool) -> Path | None:
    """Where GitHub takes the job's summary from; None when it is not wanted.

    Raises:
        InputError: it is, and GitHub does not run the job.
    """
    if not wanted:
        return None
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    if not named:
        raise InputError(
            "--step-summary: GITHUB_STEP_SUMMARY is not set; leave it out where GitHub does not run the job"
        )
    return Path(named)


def append(path: Path, text: str) -> None:
    """Add text to a file.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def open_run(path: Path | None) -> Run:
    """The run a command is given, or the newest one here, which is then named on stderr.

    Raises:
        RunError: no such run, or one that is not complete.
    """
    from geofilter.store import Run

    if path is not None:
        return Run.open(path)
    run = Run.newest(Path.cwd())
    note(f"run: {run.path}")
    return run


def _typed(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _overruled(ctx: typer.Context) -> set[str]:
    """Settings that belong to the model or SAE of the settings file, when another is typed on the command line."""
    of_the_sae = {"layer", "width", "sae_revision", "llama_scope_gate", "allow_other_model"}
    if _typed(ctx, "model"):
        return {"sae", "revision", *of_the_sae}
    if _typed(ctx, "sae"):
        return of_the_sae
    return {"sae", "sae_revision"} if _typed(ctx, "layer") or _typed(ctx, "width") else set()


def from_settings(ctx: typer.Context, kinds: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that the settings file decides: what is typed on the command line wins over it.

    Options that this command does not have, but another has, are passed over.

    Args:
        kinds: type of each option; a `list[str]` may also be one string in the file.

    Raises:
        InputError: a key that no command has, so that a misspelt one is not silently without effect; a value of
            another type than the option's.
    """
    found = settings(Path.cwd())
    unknown = sorted(set(found) - _KNOWN)
    if unknown:
        raise InputError(f"settings file: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KNOWN))}")
    without = _overruled(ctx)
    return {
        key: _of_kind(key, value, kinds[key])
        for key, value in found.items()
        if key in kinds and key not in without and not _typed(ctx, key)
    }


def _of_kind(key: str, value: Any, kind: Any) -> Any:
    inner = next((k for k in get_args(kind) if k is not NoneType), kind) if get_origin(kind) is UnionType else kind
    several = get_origin(inner) is list
    element = get_args(inner)[0] if several else inner
    written: tuple[type, ...] = {Path: (str,), float: (float, int)}.get(element, (element,))
    values = value if several and isinstance(value, list) else [value]
    if any(type(v) not in written for v in values):  # not isinstance: true is no integer
        raise InputError(f"settings file: {key} = {value!r} must be {_TYPES[written[0]]}")
    return [element(v) for v in values] if several else element(value)
