"""What `.ci/quality` goes by, against what pyproject.toml asks for and how the package is laid out."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def asked(*extras: str) -> list[Requirement]:
    """What geofilter and these extras depend on directly."""
    project, always = PROJECT["project"], PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    base = [*always["dependencies"], *always["faiss"]["gpu"]]
    texts = [*base, *(t for extra in extras for t in project["optional-dependencies"][extra])]
    return [r for r in map(Requirement, texts) if r.name != project["name"]]


def test_the_oldest_versions_tested_are_those_allowed():
    lines = (ROOT / ".ci" / "oldest.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    lowest = {
        r.name: next(s.version for s in r.specifier if s.operator == ">=")
        for r in asked("trial", "judge", "ray", "s3", "test")
    }
    assert {name: Version(v) for name, v in tested.items()} == {name: Version(v) for name, v in lowest.items()}


def test_the_licence_of_every_dependency_is_listed():
    page = (ROOT / "docs" / "licences.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    listed = {cells[0]: cells for cells in rows if len(cells) == 5}
    for requirement in asked(*PROJECT["project"]["optional-dependencies"]):
        _, _, versions, licence, home = listed[requirement.name]
        assert versions.split(" where ")[0] == str(requirement.specifier), "stale: python examples/write_licences.py"
        assert licence not in ("", "not stated")
        assert home.startswith("https://")
