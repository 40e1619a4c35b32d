"""What the tests of `geofilter verify` share."""

from pathlib import Path

from geofilter.run.store import Run
from geofilter.verify.verify import verify
from helpers.command import geofilter


def run_all(folder: Path, *commands: list[object]) -> None:
    for command in commands:
        done = geofilter(*command, cwd=folder)
        assert done.returncode == 0, done.stderr


def doubts(folder: Path) -> list[tuple[str, str]]:
    """File and place of every doubt about the run in a folder, the file relative to it."""
    found, _ = verify(Run(folder / "run"))
    return [(str(Path(d["file"]).absolute().relative_to(folder)), d["place"]) for d in found.doubts]
