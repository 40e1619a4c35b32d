"""The folder of a training: whose it is, where it stands, and what is in it when it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofilter.dictionary.card import CARD, Card, read_card
from geofilter.errors import InputError, RunError
from geofilter.files import file_sha256, from_json, make_folder, own_bytes, write_json
from geofilter.target.sae_folder import CFG, WEIGHTS
from geofilter.text import shorten
from geofilter.together import NotWrittenError, Together

WORK = "training"
"""folder within the SAE's: what a stopped training goes on from"""
REQUEST = "request.json"


def described(path: str, origin: Any = None) -> dict[str, Any]:
    """A data file by its path, hash and size.

    Raises:
        InputError: it cannot be read.
    """
    try:
        about = {"path": path, "sha256": file_sha256(Path(path)), "bytes": Path(path).stat().st_size}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return about if origin is None else {**about, "origin": dict(origin)}


def claim(out: Path, request: dict[str, Any]) -> Card | None:
    """The folder of a training, made if need be; the card where it is done already.

    Raises:
        InputError: it cannot be made, or holds something else.
        RunError: it holds the SAE, or the unfinished training, of other data or options.
    """
    card = read_card(out)
    if card is not None and "request" in card:
        refuse_other(out, card["request"], request)
        if all((out / name).is_file() for name in (CFG, WEIGHTS)):
            with suppress(OSError):
                shutil.rmtree(out / WORK)  # of a process that was killed when all was done
            return card
    elif any((out / name).exists() for name in (CFG, WEIGHTS, CARD)):
        raise InputError(f"--out {out}: holds an SAE that is not of this command; give another --out")
    work = out / WORK
    if (work / REQUEST).is_file():
        try:
            held = from_json(own_bytes(work / REQUEST))
        except (OSError, ValueError) as error:
            raise RunError(f"{work / REQUEST}: cannot be read ({error}); give another --out") from None
        # How weights are stored is decided when all is trained.
        refuse_other(out, {**held, "weights": request["weights"]} if isinstance(held, dict) else held, request)
        return None
    if out.is_dir() and any(path.name != WORK for path in out.iterdir()):
        raise InputError(f"--out {out}: is a folder that holds other files; give a new one")
    make_folder(work)
    write_json(work / REQUEST, request)
    return None


def refuse_other(out: Path, held: Any, request: dict[str, Any]) -> None:
    """Refuse a folder of other data or options.

    Raises:
        RunError: it is; the message names what differs.
    """
    if differ := list(_differences(held if isinstance(held, dict) else {}, request)):
        raise RunError(f"{out}: holds the training of another configuration ({'; '.join(differ)}); give another --out")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    was, now = old.get("data", []), new["data"]
    if was != now:
        paths = [[path for path, _ in data] for data in (was, now)]
        changed = [path for path, sha in now if dict(was).get(path, sha) != sha]
        yield (
            f"data: {_short(paths[0])}, now {_short(paths[1])}"
            if paths[0] != paths[1]
            else f"data: {_short(changed)} changed since"
        )
    for key in {**old, **new}:
        if key != "data" and old.get(key) != new.get(key):
            yield f"{key}: {_short(old.get(key))}, now {_short(new.get(key))}"


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 90)


def write_sae(folder: Path, weights: dict[str, Any], cfg: dict[str, Any]) -> None:
    """An SAE in SAELens' layout.

    Args:
        weights: torch tensors.

    Raises:
        InputError: it cannot be written.
    """
    from safetensors.torch import save

    make_folder(folder)
    write_all(folder, {WEIGHTS: save(weights), CFG: (json.dumps(cfg, indent=1) + "\n").encode()})


def publish(out: Path, made: Path, card: Card) -> None:
    """Put the SAE that was made and its card into their place, all or nothing, and remove what the training kept.

    Raises:
        InputError: they cannot be written.
    """
    files = {name: (made / name).read_bytes() for name in (WEIGHTS, CFG)}
    write_all(out, {**files, CARD: (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()})
    with suppress(OSError):
        shutil.rmtree(out / WORK)


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Files of a folder, which appear together; the last one after the others.

    Raises:
        InputError: they cannot be written.
    """
    names: Sequence[str] = list(files)
    try:
        with Together() as together:
            for name in names:
                with together.open(folder / name, last=name == names[-1]) as handle:
                    handle.write(files[name])
    except NotWrittenError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); free some space: the same command then goes on"
        ) from None
