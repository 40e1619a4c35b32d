"""Files from the Hugging Face hub, through its own cache, with errors that say what to do.

Of a model only the weight files that hold the text decoder's layers up to the hook are fetched: for layer 22 of
gemma-2-27b that is about half of 54 GB.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.files import Notify, cache_dir, made_once, slug
from geofilter.target.decoder import is_nested, is_wanted, prefix_of

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
SMALL_FILES = "--include '*.json' --include '*.jinja' --include 'tokenizer*'"
REPO = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""a repository's name"""
_SAFE_NAME = re.compile(r"[\w-][\w.-]*[.]safetensors")


class Absent(TargetError):
    """The repository has no such file."""


class Uncached(TargetError):
    """The file is not in the cache, and the hub may not be asked or does not answer."""


def fetch(repo: str, name: str, *, revision: str | None = None, offline: bool = False, get: str | None = None) -> Path:
    """One file of a repository, from the cache where it is there already.

    Args:
        revision: branch, tag or commit; the default branch when None.
        offline: look into the cache only.
        get: what to tell `hf download` to get, when it is missing; the file when None.

    Raises:
        Absent, Uncached: see there.
        TargetError: gated, no such repository or revision; with the remedy.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    at = f" --revision {revision}" if revision else ""
    absent = f"{repo}: has no file {name}{f' at revision {revision}' if revision else ''}"
    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=offline))
    except errors.GatedRepoError:
        raise TargetError(
            f"{repo}: gated; accept its licence at https://huggingface.co/{repo}, then run: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise TargetError(
            f"{repo}: no such repository, or a private one; check the name, or run: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise TargetError(f"{repo}: has no revision {revision}; give a branch, tag or commit of it") from None
    except errors.LocalEntryNotFoundError:
        if _known_absent(repo, name, revision):
            raise Absent(absent) from None
        why = "may not be used" if offline or constants.is_offline_mode() else "does not answer"
        raise Uncached(
            f"{repo}: {name} is not in the cache {constants.HF_HUB_CACHE} and the hub {why}; "
            f"get it where there is a network: hf download {repo} {get or name}{at}"
        ) from None
    except errors.EntryNotFoundError:
        raise Absent(absent) from None
    except Exception as error:  # whatever else the hub's client and the network raise
        raise TargetError(f"{repo}: {name} cannot be had ({first_line(error)}); try again") from None


def _known_absent(repo: str, name: str, revision: str | None) -> bool:
    """True when the cache has kept that the repository has no such file."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo, name, revision=revision)
    return known is not None and not isinstance(known, str)


def in_cache(repo: str, name: str, revision: str | None) -> bool:
    """True when the file lies in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, name, revision=revision), str)


def _fetch_if_there(repo: str, name: str, commit: str, offline: bool) -> Path | None:
    """A file that not every repository has; None where it has none. Offline, what is not in the cache is not there."""
    from huggingface_hub import constants, try_to_load_from_cache

    known = try_to_load_from_cache(repo, name, revision=commit)
    if known is not None:  # there, or known not to be in the repository
        return Path(known) if isinstance(known, str) else None
    try:
        return fetch(repo, name, revision=commit, offline=offline)
    except Absent:
        return None
    except Uncached:
        if offline or constants.is_offline_mode():
            return None
        raise TargetError(
            f"{repo}: the hub does not answer, so whether there is a {name} cannot be known; try again, or take what "
            "is in the cache for all there is with --offline"
        ) from None


def has_chat_template(folder: Path) -> bool:
    """True when the tokenizer's files hold a chat template: a file of its own, or a key of tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(_json(config).get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TargetError(f"{path}: is damaged ({error}); delete it and fetch it again") from None
    return found if isinstance(found, dict) else {}


def _weight_map(index: Path, where: object, kind: str) -> dict[str, str]:
    """Weight file of each tensor, as an index says: plain names of files that lie beside it.

    Args:
        where, kind: of what the index is, for the message.

    Raises:
        TargetError: it says something else.
    """
    found = _json(index).get("weight_map")
    if (
        not isinstance(found, dict) or not found
        or any(not isinstance(file, str) or not _SAFE_NAME.fullmatch(file) for file in found.values())
    ):  # fmt: skip
        raise TargetError(f"{where}: {INDEX} is damaged: it names no weight files, or some outside of the {kind}")
    return found


def shards_of(folder: Path) -> list[str]:
    """The weight files that the index of a model folder names; none where there is no index.

    Raises:
        TargetError: the index is damaged, or names files that are not there or lie outside of the folder. A snapshot
            in a Hugging Face cache is made of links to the blobs of its own repository, and those may be.
    """
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(_weight_map(folder / INDEX, folder, "folder").values()))
    own = folder.resolve()
    for name in names:
        place = (folder / name).resolve()
        blob = own.parent.name == "snapshots" and place.parent == own.parent.parent / "blobs"
        ours = own.parent == (cache_dir() / "models").resolve()
        if not (blob or ours or place.parent == own):
            raise TargetError(
                f"{folder / name}: {INDEX} names it, and it is a link to {place}, outside of the folder; put the file "
                "itself there"
            )
        if not place.is_file():
            raise TargetError(f"{folder / name}: no such file, but {INDEX} names it; get the model again")
    return names


def tensor_names(folder: Path) -> list[str]:
    """Names of the tensors that a model folder's weights hold.

    Raises:
        TargetError: the index is damaged, or the weights cannot be read.
    """
    if not (folder / WEIGHTS).is_file():
        return list(_weight_map(folder / INDEX, folder, "folder"))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{folder / WEIGHTS}: cannot be read ({first_line(error)}); get the model again") from None


def model_folder(repo: str, commit: str, layers: int | None, offline: bool, notify: Notify) -> Path:
    """A folder transformers can load the first `layers` decoder layers from; all, and the output head, when None.

    Of a multimodal model the text decoder is meant, and no more is fetched.

    The snapshot itself when all weight files are wanted; else a folder in geofilter's cache that links to
    the files wanted, with an index of just their tensors.

    Raises:
        TargetError: no safetensors weights, or see `fetch`.
    """
    snapshot = fetch(repo, CONFIG, revision=commit, offline=offline).parent
    index = _fetch_if_there(repo, INDEX, commit, offline)
    if index is None:
        if not (snapshot / WEIGHTS).is_file() and not offline:
            notify(f"fetching {repo}: {WEIGHTS}")
        fetch(repo, WEIGHTS, revision=commit, offline=offline)
        return snapshot
    weight_map = _weight_map(index, repo, "repository")
    # Of a plain model all of it is wanted when its head is; of a multimodal one never the other towers.
    prefix = prefix_of(weight_map) if layers is not None or is_nested(_json(snapshot / CONFIG)) else None
    wanted = {k: file for k, file in weight_map.items() if is_wanted(k, layers, prefix)}
    files = sorted(set(wanted.values()))
    absent = [file for file in files if not (snapshot / file).is_file()]
    if absent and offline:
        raise TargetError(
            f"{repo}: {', '.join(absent)} not in the cache {snapshot.parents[2]} and the hub may not be used; "
            f"get them where there is a network: hf download {repo} {' '.join(absent)} --revision {commit}"
        )
    if absent:
        everything = len(set(weight_map.values()))
        needed = "hold the whole model" if layers is None else "hold the layers up to the hook"
        notify(f"fetching {repo}: {len(files)} of {everything} weight files {needed}")
    for file in absent:
        fetch(repo, file, revision=commit, offline=offline)
    if all((snapshot / file).is_file() for file in set(weight_map.values())):
        return snapshot
    names = [path.name for path in snapshot.iterdir() if path.name in (CONFIG, *TOKENIZER)] + files
    return made_once(
        cache_dir() / "models" / f"{slug(repo)}-{commit[:12]}-{layers}",
        lambda view: all((view / name).is_file() for name in [*names, INDEX]),
        lambda view: _link_all(view, snapshot, names, wanted),
        notify,
    )


def _link_all(view: Path, snapshot: Path, names: list[str], weight_map: dict[str, str]) -> None:
    for name in names:
        link((snapshot / name).resolve(), view / name)
    (view / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")


def link(source: Path, place: Path) -> None:
    """Make a file appear at another place too, by a link where links can be made, else as a copy."""
    try:
        place.symlink_to(source)
    except OSError:  # Windows without the right to make symbolic links
        try:
            os.link(source, place)
        except OSError:  # another file system
            shutil.copyfile(source, place)


def fetch_config(repo: str, revision: str | None, offline: bool) -> tuple[Path, str]:
    """The snapshot folder with a model's configuration and tokenizer, and its commit.

    Raises:
        TargetError: see `fetch`.
    """
    # Where not even the configuration is there: what to get without the weights, of which a part will do.
    config = fetch(repo, CONFIG, revision=revision, offline=offline, get=SMALL_FILES)
    commit = config.parent.name
    for name in TOKENIZER:
        _fetch_if_there(repo, name, commit, offline)
    return config.parent, commit
