"""Option types that commands share, and the run that is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter.cli.output import note
from geofilter.config import DEVICE_MAPS, DTYPES, SAE_DTYPES

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


StepSummary = Annotated[
    bool, typer.Option("--step-summary", help="Append it to the file that GITHUB_STEP_SUMMARY names.")
]


def open_run(path: Path | None) -> Run:
    """The run a command is given, or the newest one here, which is then named on stderr.

    Raises:
        RunError: no such run, or one that is not complete.
    """
    from geofilter.run.store import Run

    if path is not None:
        return Run.open(path)
    run = Run.newest(Path.cwd())
    note(f"run: {run.path}")
    return run
