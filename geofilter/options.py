"""What the commands share: option types, notes on stderr, and options from the settings file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from geofilter.errors import InputError

Model = Annotated[str | None, typer.Option(help="Target name (see `geofilter targets`) or model folder.")]
Sae = Annotated[Path | None, typer.Option(help="SAELens folder; needed with a model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]


def note(text: str) -> None:
    """Lines on stderr; what a terminal would act on (escapes in data or in a bank's labels) is replaced."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text), err=True)


def notifier(quiet: bool) -> Callable[[str], None]:
    """`note`, or nothing when quiet; then the bars that pip and transformers draw by themselves are off too."""
    if not quiet:
        return note
    os.environ |= {"PIP_QUIET": "1", "TQDM_DISABLE": "1"}
    return lambda text: None


def with_settings(ctx: typer.Context, given: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    """Options typed on the command line win over the settings file, which wins over the defaults.

    Args:
        strict: refuse keys that are not in `given`; a command with fewer options passes over the others.
    """
    from geofilter.config import settings

    found = settings(Path.cwd())
    if "bank" in found:
        bank = found.pop("bank")
        found["banks"] = tuple(bank) if isinstance(bank, list) else (bank,)
    unknown = sorted(set(found) - set(given))
    if unknown and strict:
        raise InputError(
            f"settings file: unknown key {unknown[0]!r}; known: {', '.join(k for k in given if k != 'banks')}, bank"
        )
    for key in set(found) & set(given):
        source = ctx.get_parameter_source("bank" if key == "banks" else key)
        if source is not None and source.name != "COMMANDLINE":
            given[key] = found[key]
    return given
