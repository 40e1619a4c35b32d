"""Write docs/licences.md: the licences of what geofilter depends on, as the installed packages state them.

    python examples/write_licences.py

Run where geofilter is installed with all its extras, on Linux, x86_64. Ends with an error when a licence is neither
permissive nor one of those that the page explains.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

geofilter is Apache-2.0 and contains no code of other packages: pip fetches what it depends on, each under a licence of
its own. Written by `python examples/write_licences.py` from what the installed packages state.

| package | needed for | asked for | licence | home |
|---|---|---|---|---|
"""
BROUGHT = """
## What is brought along

Everything that `pip install 'geofilter[trial,judge,ray,s3]'` installs on Linux, x86_64, with the CPU build of torch:

| licence | packages |
|---|---|
"""
TERMS = """
## What is not permissive

All other licences ask for no more than to be passed on with the package.

- **Inside wheels**: those of numpy, scipy and scikit-learn hold runtime libraries of GCC: GPL-3.0 with the runtime
  library exception, which lets them go with any program, and libquadmath (LGPL-2.1). geofilter does not link
  to them; whoever passes those wheels on passes on the licence texts in them.
"""
EXPLAINED = {
    "MPL": "copyleft for the files of these packages alone: changed copies of them stay under the Mozilla Public\n"
    "  License. It asks nothing of what uses them (its section 3.3), so they go with Apache-2.0.",
    "NVIDIA": "libraries of NVIDIA under terms of its own, which `faiss-gpu` asks for, and CUDA builds of torch for\n"
    "  more. They may be used; whoever publishes an image that holds them reads those terms first.",
}
"""licences that are not permissive, and what that means"""
PERMISSIVE = re.compile(r"MIT|Apache|0?BSD|ISC|PSF|CNRI|Zlib|CC0|BSL|HPND|Unlicense")
SHORT = {
    r"Apache.*": "Apache-2.0",
    r"(3-Clause )?BSD( License)?": "BSD",
    r"MIT( License)?|mit": "MIT",
    r"ISC.*": "ISC",
    r"Python Software Foundation License": "PSF-2.0",
    r"Mozilla Public License 2.0.*": "MPL-2.0",
    r".*Proprietary.*": "NVIDIA",
}
"""how what older packages state in words is written"""
HOME = ("homepage", "home", "repository", "source code", "source", "documentation")
"""names of links, the best first"""
NOT_BESIDE = {"faiss-cpu": "faiss-gpu"}
"""a package that cannot be installed here, and its other build, which states the same"""


def asked() -> Iterator[tuple[Requirement, str]]:
    """Every direct dependency, and the extra that asks for it: "" for geofilter itself."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project, always = read["project"], read["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    base = [*always["dependencies"], *always["faiss"]["gpu"]]
    for extra, texts in {"": base, **project["optional-dependencies"]}.items():
        for requirement in map(Requirement, texts):
            if requirement.name != project["name"]:
                yield requirement, extra


def licence(about: Message) -> str:
    """The licence that a package states: an SPDX expression, or a few words put into one."""
    if stated := about["License-Expression"]:
        return "NVIDIA" if "NVIDIA" in stated else stated
    words = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    words = words or (about["License"] or "not stated").splitlines()[:1]
    short = {next((s for pattern, s in SHORT.items() if re.fullmatch(pattern, w.strip())), w.strip()) for w in words}
    return " OR ".join(sorted(short))


def home(about: Message) -> str:
    """The address of a package's home page, or of its source."""
    links = {name.lower(): url for name, url in (link.split(", ", 1) for link in about.get_all("Project-URL", []))}
    found = about["Home-page"] or next(links[name] for name in HOME if name in links)
    return re.sub("^http:", "https:", found)


def brought(requirement: Requirement, found: dict[str, str]) -> None:
    """Add a package and all that it needs, by name, with their licences."""
    name = canonicalize_name(requirement.name)
    key = f"{name}[{','.join(sorted(requirement.extras))}]" if requirement.extras else name
    if key in found:
        return
    found[key] = licence(metadata(name))
    for inner in map(Requirement, requires(name) or ()):
        wanted = inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *requirement.extras))
        if wanted:
            brought(inner, found)


def known(stated: str) -> bool:
    """Whether each part of what a package states is permissive or explained."""
    parts = re.split(r" (?:AND|OR|WITH) ", stated.replace("(", "").replace(")", ""))
    return all(PERMISSIVE.match(part) or part.startswith((*EXPLAINED, "LLVM-exception")) for part in parts)


def page() -> str:
    """The page; raises SystemExit when a licence is not known."""
    lines = []
    for requirement, extra in asked():
        about = metadata(NOT_BESIDE.get(requirement.name, requirement.name))
        where = f" where {requirement.marker}" if requirement.marker else ""
        needed = f"`{extra}`" if extra else "all"
        lines.append(
            f"| {requirement.name} | {needed} | {requirement.specifier}{where} | {licence(about)} | {home(about)} |\n"
        )
    found: dict[str, str] = {}
    brought(Requirement("geofilter[trial,judge,ray,s3]"), found)
    groups: dict[str, list[str]] = {}
    for key, stated in sorted(found.items()):
        if "[" not in key and key != "geofilter":
            groups.setdefault(stated, []).append(key)
    unknown = {stated: names for stated, names in groups.items() if not known(stated)}
    if unknown:
        raise SystemExit(f"read these licences, and say in EXPLAINED what they ask for: {unknown}")
    brought_rows = (f"| {stated} | {', '.join(names)} |\n" for stated, names in sorted(groups.items()))
    terms = (f"- **{name}**: {text}\n" for name, text in EXPLAINED.items())
    return "".join([HEAD, *lines, BROUGHT, *brought_rows, TERMS, *terms])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
