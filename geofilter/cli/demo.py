"""`geofilter demo`: the main job on an example file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import Command, Offline, Quiet
from geofilter.cli.output import note
from geofilter.cli.scan import run_scan
from geofilter.config import TargetChoice

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the example and its outputs go.")] = Path("geofilter-demo"),
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Scan and filter an example file of 140 rows with the embedded model; print where the report is."""
    from geofilter.cli.filtered import say_filtered
    from geofilter.config import ScanConfig
    from geofilter.cut.cut import Cut
    from geofilter.files import atomic, make_folder
    from geofilter.places import refuse_output
    from geofilter.report.write import filter_run
    from geofilter.rows.shipped import example_file

    refuse_output(folder, "FOLDER", kind="folder")
    data = folder / "mixed_advice.jsonl"
    refuse_output(data, "FOLDER", named=False)
    make_folder(folder)
    with atomic(data) as handle, example_file().open("rb") as source:
        shutil.copyfileobj(source, handle)
    note(f"$ geofilter scan {data} --model smollm2-135m")
    done = run_scan(ScanConfig(data=(str(data),), target=TargetChoice("smollm2-135m")), None, offline, quiet)
    note(f"$ geofilter filter {done.path} --drop 25%")
    say_filtered(filter_run(done, Cut.parse("25%")), quiet)
