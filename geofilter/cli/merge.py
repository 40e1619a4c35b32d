"""`geofilter merge`: complete a run whose parts were scanned by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import AsJson, Command, Quiet, Verbose, run_place
from geofilter.cli.output import notifier
from geofilter.cli.scan import say_scanned

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter merge runs/a")
def merge(
    run: Annotated[
        Path,
        typer.Argument(help="The folder or URL that --run has named for each part.", parser=run_place, metavar="RUN"),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Argument(help="Further folders of the same scan, of parts that had none in common; shards are copied."),
    ] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Complete a run that geofilter scan --shard has made in parts: score its rows. Loads no model."""
    from geofilter.scanning.parts import merge as merged

    done = merged(run, others or (), notifier(quiet))
    say_scanned(done, named=True, verbose=verbose, as_json=as_json)
