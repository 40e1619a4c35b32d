"""`geofilter settings trust`: a person approves the endpoints that the settings file here names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import Command
from geofilter.cli.output import note

app = typer.Typer(help="What the settings file of the working folder may decide.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command(cls=Command, epilog="Example: geofilter settings trust")
def trust(
    forget: Annotated[bool, typer.Option("--forget", help="Take the approval back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask at the terminal.")] = False,
) -> None:
    """Approve the base-url of the settings file here: rows, and over https or on this machine the key, may go there.

    Kept in your own configuration folder; a base-url that is changed needs a new approval.
    """
    from geofilter.cli import approval
    from geofilter.cli.settings_file import read, written
    from geofilter.errors import InputError
    from geofilter.judge.endpoint import endpoint

    found = read(Path())
    if not found.name:
        raise InputError("no settings file here (geofilter.toml, or [tool.geofilter] of pyproject.toml)")
    if forget:
        approval.approve(found.path, [])
        note(f"{found.path}: nothing of it is approved now")
        return
    urls = approval.endpoints(found)
    if not urls:
        raise InputError(f"{found.name}: names no base-url, so there is nothing to approve")
    note(f"{found.path}:")
    for url in urls:
        endpoint(url)  # refuses what is no address
        sent = "rows and the key of OPENAI_API_KEY" if approval.may_have_key(url) else "rows, and no key (not https)"
        note(f"  base-url = {written(url)}: may be sent {sent}")
    if sys.stdin.isatty() and not yes and not typer.confirm("Approve?", err=True):
        raise InputError("nothing was approved; type --base-url instead")
    approval.approve(found.path, urls)
    note(f"approved, in {approval.record()}")
