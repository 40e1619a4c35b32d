"""What the commands share: option types, notes on stderr, tables, the run that is meant."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter.config import DEVICE_MAPS, DTYPES, SAE_DTYPES
from geofilter.errors import InputError
from geofilter.text import inert

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


def note(text: str) -> None:
    """Lines on stderr; what a terminal would act on (escapes in data or in a bank's labels) is replaced."""
    typer.echo("\n".join(map(inert, text.split("\n"))), err=True)


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
