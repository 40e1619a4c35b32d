"""`geofilter verify`: is a run what it says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, Quiet, RunArg, open_run
from geofilter.cli.output import note, notifier, print_json
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.errors import GeofilterError, InputError, RunError

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter verify --deep 20")
@with_settings
def verify(
    ctx: typer.Context,
    run: RunArg = None,
    deep: Annotated[
        int, typer.Option(help="Also run the model on N rows, evenly spaced, and compare their scores."), PER_CALL
    ] = 0,
    target: Annotated[
        bool, typer.Option(help="Also hold model and SAE against the scan; they must be on this machine."), PER_CALL
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Hold a run against its hashes, inputs, banks, target and the files of its last cut. Writes nothing.

    Exit code 4 on any doubt, each named with its file and place. Loads no model, but for --deep.
    """
    from geofilter.run.store import Run
    from geofilter.text import counted
    from geofilter.verify.findings import Findings
    from geofilter.verify.verify import verdict_of
    from geofilter.verify.verify import verify as check

    if deep < 0:
        raise InputError(f"--deep {deep}: give the number of rows to encode again")
    try:
        opened = open_run(run)
    except RunError as error:
        if as_json:
            found = Findings()
            found.said(error)
            print_json(verdict_of(Run(run or Path()), found))
        raise
    found, manifest = check(opened, target=target)
    if deep and manifest is not None:
        with loading_libraries(quiet):
            from geofilter.scanning.recheck import recheck

        with found.part(f"the model gives {counted(min(deep, manifest['counts']['scored']), 'row')} the stored scores"):
            try:
                for file, line, text in recheck(opened, deep, notifier(quiet)):
                    found.doubt(file, f"line {line}", text)
            except GeofilterError as error:
                found.said(error, opened.path)
    if as_json:
        print_json(verdict_of(opened, found))
    elif not quiet:
        for text in found.checked:
            note(f"ok: {text}")
    for doubt in found.doubts:
        note(f"doubt: {doubt['file']}{', ' if doubt['place'] else ''}{doubt['place']}: {doubt['text']}")
    if found.doubts:
        raise RunError(f"{opened.called}: {counted(len(found.doubts), 'doubt')}; what is in doubt is named above")
    note(f"verified: {opened.called}")
