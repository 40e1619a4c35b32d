"""Option types that commands share, and the run that is meant."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from geofilter.cli.output import note
from geofilter.config import RUN, Option, ScanConfig
from geofilter.errors import RunError
from geofilter.files import RUNS

if TYPE_CHECKING:
    from geofilter.run.store import Run


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
    from geofilter.target.named import known

    return one_of(*known())(incomplete)


def typer_option(name: str, option: Option) -> OptionInfo:
    """The option that a field of a configuration declares, as Typer takes it."""
    completion = _targets if name == "model" else one_of(*option.values) if option.values else None
    made: OptionInfo = typer.Option(
        *([f"--{name.replace('_', '-')}"] if option.flag else ()), help=option.help, rich_help_panel=option.panel,
        autocompletion=completion, metavar=option.metavar or None,
    )  # fmt: skip
    return made


def declared(group: type, name: str) -> Option:
    """What a configuration says of the option that one of its fields is."""
    found: Option = next(f for f in fields(group) if f.name == name).metadata["option"]
    return found


OUTPUT = "Output"
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.", rich_help_panel=RUN)]
RunArg = Annotated[
    Path | None,
    typer.Argument(
        help="Run: its folder, the beginning of its name, or its data file; by default the newest finished one under "
        ".geofilter/."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=OUTPUT), PER_CALL]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="The statistics behind the result too.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result.", rich_help_panel=OUTPUT)]
ExcludeFeature = Annotated[list[str] | None, typer_option("exclude_feature", declared(ScanConfig, "exclude_features"))]
System = Annotated[str, typer_option("system", declared(ScanConfig, "system"))]
FieldNames = Annotated[str | None, typer_option("fields", declared(ScanConfig, "fields"))]
Key = Annotated[
    str | None,
    typer.Option(help="Field that joins the rows with a file of labels, id or meta.id for instance."),
]
StepSummary = Annotated[
    bool,
    typer.Option(
        "--step-summary", help="Append it to the file that GITHUB_STEP_SUMMARY names.", rich_help_panel=OUTPUT
    ),
]


class Command(TyperCommand):
    """A command whose help names --help last, with the other options of its output."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option, in its group."""
        found: Any = super().get_help_option(ctx)
        if found is not None:
            found.rich_help_panel = OUTPUT
        return found


def open_run(given: Path | None, scoring: str = "") -> Run:
    """The run a command is given, or the newest finished one here; named on stderr where it was not given as a folder.

    Args:
        scoring: the command, where it goes on with a run whose scoring by it was stopped.

    Raises:
        RunError: no such run, several, one that is not complete, or one of another working folder.
    """
    from geofilter.run.find import named, newest

    run = newest(Path.cwd(), note) if given is None else named(given, Path.cwd(), note, scoring)
    home = run.path.resolve().parent
    relative = [d["path"] for d in run.manifest["data"] if not Path(d["path"]).is_absolute()]
    if relative and home.name == RUNS and home.parent != Path.cwd().resolve():
        # Data and banks are named as they were typed there; a file of that name here is another one.
        raise RunError(f"{run.path}: its data {relative[0]} is named from {home.parent}; run the command there: "
                       f"cd {shlex.quote(str(home.parent))}")  # fmt: skip
    if run.path != given:
        note(f"run: {run.path}")
    return run
