"""The settings file of the working folder, which may have come with the data: read with care, and never trusted.

Whoever gives away a folder of data may put a geofilter.toml beside it. So what a command takes from one is said, paths
in it stay below its folder, and where rows and keys are sent it decides only when a person has approved it, see
`approval`.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofilter.errors import InputError, first_line
from geofilter.stores import is_url
from geofilter.text import shorten

NAMES = ("geofilter.toml", "pyproject.toml")
MOST_BYTES = 1 << 20
"""of a settings file"""
SHOWN = 120
"""characters of a value in a note"""


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A settings file and what stands in it."""

    name: str
    """of the file in the working folder; empty where there is none"""
    values: dict[str, Any]
    """by option with _, those of a command's table in a dictionary under its name"""

    @property
    def path(self) -> Path:
        """Where it lies, whatever links lead there."""
        return Path(self.name).resolve()


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command took from a settings file."""

    name: str
    values: dict[str, Any]
    """by option as it is typed"""

    def said(self) -> str:
        """The file and each value, on one line."""
        return f"{self.name}: {', '.join(f'{key} = {written(value)}' for key, value in self.values.items())}"


def written(value: Any) -> str:
    """A value as it stands in a TOML file, cut where it is long."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str), SHOWN)


def read(folder: Path) -> SettingsFile:
    """`geofilter.toml` of a folder, else `[tool.geofilter]` of its pyproject.toml, else nothing.

    Raises:
        InputError: the file cannot be read, is no ordinary file, is too large, or is not valid TOML.
    """
    for name in NAMES:
        path = folder / name
        content = _content(path)
        if content is None:
            continue
        try:
            table = tomllib.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid TOML ({first_line(error)}); mend it") from None
        tools = table.get("tool")
        found = table if name == NAMES[0] else tools.get("geofilter") if isinstance(tools, dict) else None
        if found is not None and not isinstance(found, dict):
            raise InputError(f"{path}: tool.geofilter is no table; write [tool.geofilter] and the options below it")
        if found is not None:
            return SettingsFile(str(path), _with_underscores(found))
    return SettingsFile("", {})


def _content(path: Path) -> bytes | None:
    """The bytes of an ordinary file; None where there is none of that name."""
    remedy = "mend or remove it, or run the command in another folder"
    try:
        # Not waiting: a named pipe would keep the command from ever starting.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise InputError(f"{path}: the settings file is a link to nothing; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: the settings file cannot be read ({error.strerror}); {remedy}") from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "no ordinary file"
        raise InputError(f"{path}: the settings file is {what}; {remedy}")
    with open(handle, "rb") as file:  # noqa: PTH123 (a descriptor)
        try:
            content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: the settings file cannot be read ({error.strerror}); {remedy}") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: the settings file is larger than {MOST_BYTES >> 20} MiB; {remedy}")
    return content


def _with_underscores(table: dict[str, Any]) -> dict[str, Any]:
    return {k.replace("-", "_"): _with_underscores(v) if isinstance(v, dict) else v for k, v in table.items()}


def refuse_outside(name: str, key: str, value: str) -> None:
    """Refuse a path of a settings file that does not stay below the file's folder.

    Args:
        name: of the settings file, in the working folder.
        key: the option as it is typed.

    Raises:
        InputError: it is absolute or a URL, or climbs out by `..` or through a symbolic link.
    """
    path = Path(value)
    outside = is_url(value) or path.is_absolute() or ".." in path.parts or value.startswith("~")
    try:
        outside = outside or not path.resolve().is_relative_to(Path().resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, or no name that a file can have
        outside = True
    if outside:
        raise InputError(
            f"{name}: {key} = {written(value)} leads out of the file's folder; a settings file may only name what lies "
            f"below it: type --{key}"
        )
