"""What the commands share: option types, notes on stderr, and options from the settings file."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from geofilter.config import DEVICE_MAPS, DTYPES, SAE_DTYPES, Loading, TargetChoice, settings
from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.store import Run

PER_CALL = "no setting: belongs to one call"
"""in an option's `Annotated`"""
OWN_TABLE = "a setting in the command's own table only: what a command writes, no other may"
"""likewise"""


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Completion of an option's value in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def _targets(incomplete: str) -> list[str]:
    from geofilter.targets import known

    return one_of(*known())(incomplete)


Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
RunArg = Annotated[Path | None, typer.Argument(help="Run folder; by default the newest under .geofilter/.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout."), PER_CALL]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result.")]
ExcludeFeature = Annotated[
    list[str] | None,
    typer.Option(help="A feature that is to count nothing: N, or BANK:N for one bank; repeat for several."),
]
System = Annotated[
    str,
    typer.Option(
        help="System turns: keep, or fold into the user turn that follows (Gemma knows none).",
        autocompletion=one_of("keep", "fold"),
    ),
]

FieldNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Columns of rows of no known shape: prompt=question,response=meta.answer, or messages=, or text=; also "
        "system=.",
    ),
]

_TARGET = "Target"
_LOADING = "Device and memory"
TARGET_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (str | None, typer.Option(
        help="Name (see `geofilter targets`), Hugging Face id or model folder.", rich_help_panel=_TARGET,
        autocompletion=_targets)),
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
        rich_help_panel=_TARGET, autocompletion=one_of("saelens", "upstream"))),
    "allow_other_model": (bool, typer.Option(
        "--allow-other-model", help="Take an SAE trained on another model, of which this is a fine-tune.",
        rich_help_panel=_TARGET)),
}  # fmt: skip
LOADING_OPTIONS: dict[str, tuple[Any, Any]] = {
    "device": (str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_LOADING,
                                 autocompletion=one_of("auto", "cpu", "cuda"))),
    "dtype": (str, typer.Option(
        help="Of the model: auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.",
        rich_help_panel=_LOADING, autocompletion=one_of(*DTYPES))),
    "sae_dtype": (str, typer.Option(
        help="Of the stored SAE encoder: float32, or bfloat16 for half the memory.", rich_help_panel=_LOADING,
        autocompletion=one_of(*SAE_DTYPES))),
    "device_map": (str | None, typer.Option(
        help="Spread the layers over several GPUs: auto, balanced, balanced_low_0 or sequential.",
        rich_help_panel=_LOADING, autocompletion=one_of(*DEVICE_MAPS))),
}  # fmt: skip
_GROUPS: dict[str, tuple[Any, dict[str, tuple[Any, Any]]]] = {
    "choice": (TargetChoice, TARGET_OPTIONS),
    "loading": (Loading, LOADING_OPTIONS),
}
_TYPES: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
SETTINGS: dict[str, dict[str, Any]] = {}
"""type of each option that may stand in the settings file, by command as its table is called"""
OWN: set[tuple[str, str]] = set()
"""command and option, where the option may stand in the command's table only"""
_RIVALS = ({"drop", "keep", "threshold"}, {"device", "device_map"})
"""options of which a command takes one"""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose options may stand in the settings file, in its own table or for all commands that have them.

    `choice: TargetChoice` becomes --model, --sae and the others of `TARGET_OPTIONS`, `loading: Loading` those of
    `LOADING_OPTIONS`. The command needs `ctx: typer.Context`, and its function's name is that of its table. Its
    options and arguments are settings too, but for required arguments and what is marked `PER_CALL` or `OWN_TABLE`.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: _GROUPS[name] for name in signature.parameters if name in _GROUPS}
    parameters: list[inspect.Parameter] = []
    kinds = SETTINGS.setdefault(command.__name__, {})
    required: list[str] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            kind, *marks = get_args(parameter.annotation) or (None,)
            per_call = PER_CALL in marks
            if parameter.default is parameter.empty and not per_call and any(isinstance(m, OptionInfo) for m in marks):
                # Typer would ask for it before the settings are read.
                required.append(name)
                shown = Annotated[kind | None, *map(_said_to_be_required, marks)]  # type: ignore[valid-type]
                parameter = parameter.replace(default=None, annotation=shown)
            if parameter.default is not parameter.empty and not per_call:
                kinds[name] = kind
            if OWN_TABLE in marks:
                OWN.add((command.__name__, name))
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        group, options = groups[name]
        defaults = group()
        for key, (annotation, option) in options.items():
            kinds[key] = annotation
            parameters.append(
                inspect.Parameter(
                    key, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, key),
                    annotation=Annotated[annotation, option],
                )
            )  # fmt: skip

    @wraps(command)
    def run(**given: Any) -> None:
        given |= from_settings(given["ctx"], command.__name__)
        for name in required:
            if given[name] is None:
                raise InputError(f"--{_dashed(name)} is missing; type it, or put {name} into the settings file")
        for name, (group, options) in groups.items():
            given[name] = group(**{key: given.pop(key) for key in options})
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _said_to_be_required(mark: Any) -> Any:
    if not isinstance(mark, OptionInfo):
        return mark
    option = copy(mark)
    option.help = f"{mark.help} Required, here or in the settings file."
    return option


def _dashed(name: str) -> str:
    return name.replace("_", "-")


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
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
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


def _overruled(given: set[str]) -> set[str]:
    """What options that are given make void in a weaker place: themselves, their rivals, and what belongs to another
    model or SAE.
    """
    void = given.union(*(rivals for rivals in _RIVALS if rivals & given))
    of_the_sae = {"layer", "width", "sae_revision", "llama_scope_gate", "allow_other_model"}
    if "model" in given:
        return void | {"sae", "revision"} | of_the_sae
    if "sae" in given:
        return void | of_the_sae
    return void | {"sae", "sae_revision"} if given & {"layer", "width"} else void


def from_settings(ctx: typer.Context, command: str) -> dict[str, Any]:
    """The options of a command that the settings file decides.

    What is typed wins over the command's own table, and that over what the file has for all commands. Options that
    this command does not have, but another has, are passed over. A `list[str]` may also be one string in the file.

    Raises:
        InputError: a key that no command has, so that a misspelt one is not silently without effect; a value of
            another type than the option's.
    """
    found = settings(Path.cwd())
    _check_keys(found)
    kinds = SETTINGS[command]
    void = _overruled({key for key in kinds if _typed(ctx, key)})
    decided: dict[str, Any] = {}
    for table in (found.get(command, {}), {k: v for k, v in found.items() if k not in SETTINGS}):
        taken = {k: _of_kind(k, v, kinds[k]) for k, v in table.items() if k in kinds and k not in void}
        decided |= taken
        void |= _overruled(set(taken))
    return decided


def _check_keys(found: dict[str, Any]) -> None:
    for_all = {key for name, kinds in SETTINGS.items() for key in kinds if (name, key) not in OWN}
    for name, value in found.items():
        if name in SETTINGS:
            if not isinstance(value, dict):
                raise InputError(f"settings file: {name} = {value!r} must be a table: [{_dashed(name)}]")
            _check_known(f"[{_dashed(name)}]: ", value, SETTINGS[name])
        elif tables := sorted(_dashed(command) for command, key in OWN if key == name and key not in for_all):
            where = " or ".join(f"[{table}]" for table in tables)
            raise InputError(f"settings file: {name} says where a command writes; put it into {where}")
        else:
            _check_known("", [name], for_all)


def _check_known(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    for key in keys:
        if key not in known:
            raise InputError(f"settings file: {where}unknown key {key!r}; known: {', '.join(sorted(known))}")


def _of_kind(key: str, value: Any, kind: Any) -> Any:
    inner = next((k for k in get_args(kind) if k is not NoneType), kind) if get_origin(kind) is UnionType else kind
    several = get_origin(inner) is list
    element = get_args(inner)[0] if several else inner
    written: tuple[type, ...] = {Path: (str,), float: (float, int)}.get(element, (element,))
    values = value if several and isinstance(value, list) else [value]
    if any(type(v) not in written for v in values):  # not isinstance: true is no integer
        raise InputError(f"settings file: {key} = {value!r} must be {_TYPES[written[0]]}")
    return [element(v) for v in values] if several else element(value)
