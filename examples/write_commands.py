"""Write docs/commands.md from the command line's own declarations.

    python examples/write_commands.py

Typer's own `utils docs` cuts the summaries, drops the groups of options, and writes other text in each version of
Typer, so that a page could not be compared with what it ought to be.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from geofilter.cli.app import app
from geofilter.cli.settings import OWN, SETTINGS
from geofilter.config import MEMORY, TARGET
from geofilter.errors import EXIT_CODES

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# Commands

Every command, argument and option, as `--help` has them; written by `python examples/write_commands.py`. Data goes to
stdout, notes to stderr. The last column says where an option may stand in [the settings file](settings.md): yes, in
the table of the command only, or not at all.

`geofilter --install-completion` sets up completion of commands, options and values in bash, zsh, fish and PowerShell;
`--show-completion` prints it, `--version` the version.

| exit code | means |
|---:|---|
{exit_codes}

"""
TABLE = "\n|  | default | is | setting |\n|---|---|---|---|\n"
SHARED = (TARGET, MEMORY)
VALUES = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def commands(group: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Callable[..., None], str]]:
    """Name, function and epilog of every command, in the order of `geofilter --help`."""
    for info in group.registered_commands:
        assert info.callback
        yield prefix + (info.name or info.callback.__name__), info.callback, info.epilog or ""
    for inner in group.registered_groups:
        assert inner.typer_instance
        yield from commands(inner.typer_instance, f"{inner.name} " if inner.name else prefix)


def page() -> str:
    found = list(commands(app))
    codes = "\n".join(f"| {code} | {_escaped(means)} |" for code, means in EXIT_CODES.items())
    parts = [HEAD.format(exit_codes=codes), "| command | does |\n|---|---|\n"]
    for name, function, _ in found:
        parts.append(f"| [`{name}`](#{_anchor(f'geofilter {name}')}) | {_escaped(_summary(function))} |\n")
    shared: dict[str, list[str]] = {}
    parts += [_section(*command, shared) for command in found]
    return "".join([*parts, *(f"\n## {panel}\n{TABLE}{''.join(rows)}" for panel, rows in shared.items())])


def _section(name: str, function: Callable[..., None], epilog: str, shared: dict[str, list[str]]) -> str:
    """The part of a command; what several commands have in common is put into `shared`, by panel."""
    text = f"\n## geofilter {name}\n\n{_escaped(inspect.getdoc(function) or '')}\n\n"
    text += f"    {epilog.removeprefix('Example: ')}\n"
    panels: dict[str, list[str]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        for panel, row in _rows(function, parameter):
            panels.setdefault(panel, []).append(row)
    common = [panel for panel in panels if panel in SHARED]
    shared |= {panel: panels.pop(panel) for panel in common}
    if panels:
        text += TABLE + "".join(panels.pop("", []))  # arguments come first
        text += "".join(f"| **{panel}** | | | |\n{''.join(rows)}" for panel, rows in panels.items())
    if common:
        text += f"\nAnd the options of {' and '.join(f'[{panel}](#{_anchor(panel)})' for panel in common)}.\n"
    return text


def _rows(function: Callable[..., None], parameter: inspect.Parameter) -> Iterator[tuple[str, str]]:
    """Panel and line of an argument or option; nothing for Typer's context."""
    kind, *marks = get_args(parameter.annotation) or (None,)
    for info in marks:
        if not isinstance(info, ArgumentInfo | OptionInfo):
            continue
        name = _spelt(parameter.name, info, kind)
        default = "" if parameter.default in (None, "") or parameter.default is False else f"`{parameter.default}`"
        if parameter.default is inspect.Parameter.empty:
            default = "required"
        elif parameter.default is True:
            default = name.split(" / ")[0]
        table = function.__name__.replace("_", "-")
        where = "yes" if parameter.name in SETTINGS.get(function.__name__, {}) else ""
        if (function.__name__, parameter.name) in OWN:
            where = f"`[{table}]`"
        yield info.rich_help_panel or "", f"| {name} | {default} | {_escaped(info.help or '')} | {where} |\n"


def _spelt(name: str, info: ArgumentInfo | OptionInfo, kind: Any) -> str:
    inner = next((k for k in get_args(kind) if k is not NoneType), kind) if NoneType in get_args(kind) else kind
    several = "..." if get_args(inner) else ""
    if isinstance(info, ArgumentInfo):
        return f"`{name.upper()}{several}`"
    long = f"--{name.replace('_', '-')}"
    # Typer takes the first name for a default until it reads the signature.
    names = [d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)]
    if inner is bool:
        return ", ".join(f"`{n}`" for n in names) or f"`{long}` / `--no{long[1:]}`"
    element = get_args(inner)[0] if several else inner
    return f"`{(names or [long])[0]} {VALUES[element]}`{several}"


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _summary(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
