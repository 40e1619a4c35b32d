"""Files from the Hugging Face hub, through its own cache, with errors that say what to do.

Of a model only the weight files that hold the layers up to the hook are fetched: for layer 22 of
gemma-2-27b that is about half of 54 GB.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.paths import Notify, cache_dir, making, slug

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_SAFE_NAME = re.compile(r"[\w-][\w.-]*[.]safetensors")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


def fetch(repo: str, name: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """One file of a repository, from the cache where it is there already.

    Args:
        revision: branch, tag or commit; the default branch when None.
        offline: look into the cache only.

    Raises:
        TargetError: gated, not found, not in the cache, or no network; with the remedy.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=offline))
    except Exception as error:  # the hub's errors derive from OSError, ValueError and its client's own classes
        raise explained(error, repo, name, revision, offline) from None


def explained(error: Exception, repo: str, name: str, revision: str | None, offline: bool) -> TargetError:
    """What the hub's client raised, as one line with the remedy."""
    from huggingface_hub import constants, errors

    at = f" --revision {revision}" if revision else ""
    if isinstance(error, errors.GatedRepoError):
        return TargetError(
            f"{repo}: gated; accept its licence at https://huggingface.co/{repo}, then run: hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return TargetError(f"{repo}: no such repository, or a private one; check the name, or run: hf auth login")
    if isinstance(error, errors.RevisionNotFoundError):
        return TargetError(f"{repo}: has no revision {revision}; give a branch, tag or commit of it")
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = "and the hub may not be used" if offline or constants.is_offline_mode() else "and the hub does not answer"
        # Where not even the configuration is there, nothing is: then the whole repository is what to get.
        get = f"hf download {repo}" + ("" if name == CONFIG else f" {name}") + at
        return TargetError(
            f"{repo}: {name} is not in the cache {constants.HF_HUB_CACHE} {why}; get it where there is a network: {get}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return TargetError(f"{repo}: has no file {name}")
    return TargetError(f"{repo}: {name} cannot be had ({first_line(error)}); try again, or: hf download {repo}{at}")


def _fetch_if_there(repo: str, name: str, commit: str, offline: bool) -> Path | None:
    """A file that not every repository has; None where it has none. Offline, what is not in the cache is not there."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = try_to_load_from_cache(repo, name, revision=commit)
    if known is not None:  # there, or known not to be in the repository
        return Path(known) if isinstance(known, str) else None
    try:
        return Path(hf_hub_download(repo, name, revision=commit, local_files_only=offline))
    except LocalEntryNotFoundError:
        if offline or constants.is_offline_mode():
            return None
        raise TargetError(
            f"{repo}: the hub does not answer, so whether there is a {name} cannot be known; try again, or take what "
            "is in the cache for all there is with --offline"
        ) from None
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise explained(error, repo, name, commit, offline) from None


def model_config(repo: str, revision: str | None, offline: bool) -> tuple[Path, str]:
    """The snapshot folder with a model's configuration and tokenizer, and its commit.

    Raises:
        TargetError: see `fetch`.
    """
    config = fetch(repo, CONFIG, revision=revision, offline=offline)
    commit = config.parent.name
    for name in TOKENIZER:
        _fetch_if_there(repo, name, commit, offline)
    return config.parent, commit


def has_chat_template(folder: Path) -> bool:
    """True when the tokenizer's files hold a chat template: a file of its own, or a key of tokenizer_config.json."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(_json(config).get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TargetError(f"{path}: is damaged ({error}); delete it and fetch it again") from None
    return found if isinstance(found, dict) else {}


def model_folder(repo: str, commit: str, layers: int, offline: bool, notify: Notify) -> Path:
    """A folder transformers can load the first `layers` decoder layers from.

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
    weight_map: dict[str, str] = _json(index).get("weight_map", {})
    if not weight_map or any(not _SAFE_NAME.fullmatch(file) for file in weight_map.values()):
        raise TargetError(f"{repo}: {INDEX} is damaged: it names no weight files, or some outside of the repository")
    wanted = {key: file for key, file in weight_map.items() if wanted_tensor(key, layers)}
    files = sorted(set(wanted.values()))
    absent = [file for file in files if not (snapshot / file).is_file()]
    if absent and offline:
        raise TargetError(
            f"{repo}: {', '.join(absent)} not in the cache {snapshot.parents[2]} and the hub may not be used; "
            f"get them where there is a network: hf download {repo} {' '.join(absent)} --revision {commit}"
        )
    if absent:
        everything = len(set(weight_map.values()))
        notify(f"fetching {repo}: {len(files)} of {everything} weight files hold the layers up to the hook")
    for file in absent:
        fetch(repo, file, revision=commit, offline=offline)
    if all((snapshot / file).is_file() for file in set(weight_map.values())):
        return snapshot
    view = cache_dir() / "models" / f"{slug(repo)}-{commit[:12]}-{layers}"
    names = [path.name for path in snapshot.iterdir() if path.name in (CONFIG, *TOKENIZER)] + files
    with making(view):
        if not all((view / name).is_file() for name in [*names, INDEX]):
            _write_view(view, snapshot, names, wanted)
    return view


def wanted_tensor(key: str, layers: int) -> bool:
    """True for the tensors of the first `layers` decoder layers and of no layer, but for the output head."""
    match = _LAYER.search(key)
    return int(match[1]) < layers if match else not key.startswith("lm_head")


def _write_view(view: Path, snapshot: Path, names: list[str], weight_map: dict[str, str]) -> None:
    shutil.rmtree(view, ignore_errors=True)  # links into a cache that has been cleared since
    with tempfile.TemporaryDirectory(dir=view.parent) as scratch:
        made = Path(scratch, "view")
        made.mkdir()
        for name in names:
            _link((snapshot / name).resolve(), made / name)
        (made / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
        made.rename(view)


def _link(source: Path, link: Path) -> None:
    try:
        link.symlink_to(source)
    except OSError:  # Windows without the right to make symbolic links
        try:
            os.link(source, link)
        except OSError:  # another file system
            shutil.copyfile(source, link)
