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
from geofilter.errors import InputError, RunError
from geofilter.files import RUNS
from geofilter.stores import is_url

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


def run_place(text: str) -> Path:
    """The folder that a text names; of a URL its mirror, because a path would not keep the URL.

    Raises:
        InputError: no such URL, or the cache cannot be written.
    """
    if not is_url(text):
        return Path(text)
    from geofilter.run.mirror import mirror_of

    return mirror_of(text)


RunArg = Annotated[
    Path | None,
    typer.Argument(
        help="Run: its folder or URL, the beginning of its name, or its data file; by default the newest finished one "
        "under .geofilter/.",
        parser=run_place,
        metavar="RUN",
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


def out_place(text: str) -> Path:
    """What `--out` names; a path would not tell that the text ends in a slash, or is a URL: of one its mirror.

    Raises:
        InputError: a folder that is not there, or see `run_place`.
    """
    if text.endswith("/") and not is_url(text) and not Path(text).is_dir():
        raise InputError(f"--out {text}: no such folder; make it first: mkdir -p {shlex.quote(text)}")
    return run_place(text)


def publish(run: Run) -> None:
    """Publish what a command wrote into a run in a store; where that may only be read, it stays here."""
    try:
        run.publish()
    except RunError as error:
        note(f"note: {error}; what was written of the run is in {run.path} alone")


def open_run(given: Path | None, scoring: str = "", *, inputs: bool = True) -> Run:
    """The run a command is given, or the newest finished one here; named on stderr where it was not given as a folder.

    Args:
        scoring: the command, where it goes on with a run whose scoring by it was stopped.
        inputs: the command reads them: where they and the run are in stores, they are fetched if need be.

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
    if inputs and run.mirror is not None:
        from geofilter.rows.stored import fetch_again

        fetch_again(run.manifest["data"], note)
    return run
