"""Places that a user names to be written: what may not be written over is refused before any work is done."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from geofilter.errors import InputError
from geofilter.files import RUNS
from geofilter.stores import was_url

Kind = Literal["file", "folder", "any", "run", "bank"]
"""what is going to be at a place: a file, a folder of files, either, or a folder that is a run or a bank"""
_MARKS = ("config.json", "cfg.json", "adapter_config.json")
_OF_TARGET = re.compile(
    r".*\.(safetensors|gguf|model|jinja)|.*\.safetensors\.index\.json|merges\.txt|"
    r"((cfg|.*config|tokenizer|special_tokens_map|added_tokens|vocab|source|sparsity)\.json)"
)
"""names of the files of a model, an adapter or an SAE, beside one of the marks"""
_SMALL = 64 << 20
"""bytes of a JSON file beyond which it is nobody's manifest"""


def refuse_output(
    path: Path,
    option: str,
    inputs: Iterable[Path] = (),
    *,
    kind: Kind = "file",
    device: bool = False,
    named: bool = True,
) -> None:
    """Refuse a place that cannot hold what is to be written, or holds what must not be lost.

    That is a file or folder of a run or a bank, or a file of a model or an SAE, also through links; an input, also
    under another name of it (a link, hard or not); a device, pipe or socket; a folder where a file is to be, and the
    other way round; a link to nothing or in a circle; a name that the system cannot have. A link to any other file is
    no such place: the file takes the place of the link, and what it led to stays.

    Args:
        option: what named it, for the message.
        inputs: files that are read.
        device: it is added to, so that a device or a pipe will do.
        named: by the user. What goes beside its data by default may do so in a run's folder too.

    Raises:
        InputError: it is refused; the message says what else to give.
    """
    said = f"{option} {path}".strip()
    if was_url(path):
        raise InputError(f"{said}: is a URL, and this is written to files only; give a file or folder")
    if "\0" in str(path):
        raise InputError(f"{said}: no name can hold a NUL character; give another place")
    try:
        found = _status(path, said)
        where = path.parent.resolve() / path.name  # the link itself, where it is one
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its links go round in a circle"
        raise InputError(f"{said}: cannot be written ({reason}); give another place") from None
    if named:
        for place in dict.fromkeys((where, real)):
            _refuse_inside(place, said, kind)
            if found is not None and _is_of_target(place):
                raise InputError(f"{said}: belongs to a model or an SAE; give another place")
    if not device and not path.is_dir() and _is_of_system(path):
        raise InputError(f"{said}: is a device, a pipe or a socket; give a file that can be replaced")
    if found is not None:
        _refuse_status(found, said, kind, device)
        for given in inputs:
            if _same(found, given):
                raise InputError(f"{said}: is the input {given}; give another place")


def refuse_outputs(paths: Iterable[Path], option: str, inputs: Sequence[Path] = (), *, named: bool = True) -> None:
    """`refuse_output` for several files that an option makes.

    Raises:
        InputError: one is refused.
    """
    for path in paths:
        refuse_output(path, option, inputs, named=named)


def same_place(path: Path, other: Path) -> bool:
    """Whether two paths are one file or folder; not where one is not there."""
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def _status(path: Path, said: str) -> os.stat_result | None:
    """What is there, behind links; None where nothing is."""
    try:
        return path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            target = os.readlink(path)  # noqa: PTH115 (as it is written, not as a path)
            raise InputError(f"{said}: is a link to {target}, which is not there; remove the link, or give "
                             "another place") from None  # fmt: skip
        return None


def _is_of_system(path: Path) -> bool:
    """Whether a path is one of the system's own, such as /dev/stdout, or a link to one, whatever that is at the moment.

    What it leads to may be an ordinary file, but what would be replaced is the link.
    """
    for _ in range(40):  # as many links as the system follows
        folder = path.parent.resolve()
        if any(folder.is_relative_to(own) for own in ("/dev", "/proc", "/sys")):
            return not folder.is_relative_to("/dev/shm")
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return True


def _refuse_status(found: os.stat_result, said: str, kind: Kind, device: bool) -> None:
    if stat.S_ISDIR(found.st_mode):
        if kind == "file":
            raise InputError(f"{said}: is a folder; give a file")
    elif not stat.S_ISREG(found.st_mode):
        if not device:
            raise InputError(f"{said}: is a device, a pipe or a socket; give a file that can be replaced")
    elif kind not in ("file", "any"):
        raise InputError(f"{said}: is a file; give a folder")


def _same(found: os.stat_result, given: Path) -> bool:
    try:
        return os.path.samestat(found, given.stat())
    except (OSError, ValueError):
        return False


def _refuse_inside(place: Path, said: str, kind: Kind) -> None:
    """Refuse a place in a run or a bank, or that is one where another thing is to be."""
    made = _is_run(place) if kind == "run" else _is_bank(place)
    if kind in ("run", "bank") and not made and Path.cwd().is_relative_to(place):
        raise InputError(f"{said}: is a folder that you are in; give a new one")  # all in it would belong to the run
    for folder in ((place,) if kind not in ("file", "any") else ()) + tuple(place.parents):
        own = folder == place
        if _is_run(folder) and not (own and kind == "run"):
            raise InputError(f"{said}: {'is a run' if own else f'belongs to the run {folder}'}; give another place")
        if _is_bank(folder) and not (own and kind == "bank"):
            raise InputError(f"{said}: {'is a bank' if own else f'belongs to the bank {folder}'}; give another place")
        if folder.name == RUNS and not (kind == "run" and place.parent == folder):
            raise InputError(f"{said}: {RUNS} is where geofilter keeps runs and their data; give another place")


def _is_of_target(place: Path) -> bool:
    """Whether a file that is there is one that a model, an adapter or an SAE is read from."""
    return bool(_OF_TARGET.fullmatch(place.name)) and any((place.parent / name).exists() for name in _MARKS)


def _is_run(folder: Path) -> bool:
    return _has(folder / "manifest.json", {"fingerprint", "encoding"}, folder / "features")


def _is_bank(folder: Path) -> bool:
    return _has(folder / "bank.json", {"format", "target"}, folder / "bank.safetensors")


def _has(path: Path, keys: set[str], beside: Path) -> bool:
    """Whether a file is one of ours: by its keys, or, where it is damaged, by what lies beside it."""
    try:
        if not path.is_file():
            return False
        if beside.exists():
            return True
        if path.stat().st_size > _SMALL:
            return False
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and keys <= set(found)
