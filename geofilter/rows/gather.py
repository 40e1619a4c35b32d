"""What DATA names: files, patterns, URLs, standard input, and data sets of the Hugging Face hub or of `save_to_disk`;
all become files."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import IO, TYPE_CHECKING

from geofilter.errors import InputError, first_line
from geofilter.files import RUNS, Notify, atomic, file_sha256, from_json, make_folder, own_bytes, slug
from geofilter.rows.columns import rows_at_once
from geofilter.rows.formats import SAVED, SAVED_SEVERAL, format_of
from geofilter.rows.parquet import ENDING
from geofilter.rows.stored import fetched
from geofilter.stores import is_url

if TYPE_CHECKING:
    from datasets import Dataset


PREFIX = "hf://datasets/"
_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_FILES = re.compile(r"\.(jsonl?|ndjson|gz|zst|bz2|xz|zip|tar|parquet|csv|tsv|arrow|feather|txt)$", re.IGNORECASE)
SPLIT = "train"
TIMEOUT = 60
"""seconds"""

Origin = dict[str, str]
"""id, config, split and revision of a data set of the hub; folder, split and sha256 of a saved one; url and version of
a file in a store"""

OUTPUTS = ("filtered", "removed", "quarantined", "replaced", "judge", "report")
"""what `filter`, `replace` and `judge` put between the stem of a data file and its ending"""


def gather(
    data: Sequence[str], *, split: str | None, config: str | None, offline: bool, notify: Notify
) -> tuple[tuple[str, ...], dict[str, Origin]]:
    """The files that DATA names; what is none is kept as one under `.geofilter/`, because rows are read again later.

    `-` is standard input. `org/name` is a data set of the hub where no such file or folder is here,
    `hf://datasets/org/name` always; `@revision` may follow. A folder is what `save_to_disk` of `datasets` has written.
    Any other URL is a file in a store, or a pattern of such; anything else a file or a pattern.

    Args:
        split: of data sets; of those of the hub train when None, of saved ones the only one.
        config: of data sets of the hub that have several.

    Returns:
        the files; where those made from data sets came from.

    Raises:
        InputError: a pattern that matches nothing, no rows on standard input, or a data set that cannot be had.
    """
    if data.count("-") > 1:
        raise InputError("-: standard input is given twice; it can be read once")
    files: list[str] = []
    origins: dict[str, Origin] = {}
    hub = False
    for text in data:
        if text == "-":
            if sys.stdin is None:  # closed by the shell
                raise InputError("-: standard input is closed; pipe rows into it")
            files.append(str(spool(sys.stdin.buffer, Path(RUNS))))
        elif named := _hub_id(text):
            path, origin = fetch(named["id"], named["revision"], split or SPLIT, config, offline=offline, notify=notify)
            files.append(str(path))
            origins[str(path)], hub = origin, True
        elif is_url(text):
            found = dict(fetched(text, OUTPUTS, offline=offline, notify=notify))
            files += map(str, found)
            origins |= {str(path): origin for path, origin in found.items()}
        elif (folder := _saved(text, split)) is not None:
            path, origin = load_saved(folder, notify=notify)
            files.append(str(path))
            origins[str(path)] = origin
        else:
            files += expand([text])
    if split is not None and not any("split" in origin for origin in origins.values()):
        raise InputError(f"--split {split}: no input is a data set that has splits; leave it out")
    if config is not None and not hub:
        raise InputError(f"--data-config {config}: no input is a data set of the hub; leave it out")
    return tuple(files), origins


def _hub_id(text: str) -> re.Match[str] | None:
    """Id and revision of a data set of the hub; None where the text names files, of one or elsewhere.

    Raises:
        InputError: an id that is none, or what may be a mistyped path as well.
    """
    found = _ID.fullmatch(text.removeprefix(PREFIX))
    if text.startswith(PREFIX):
        if text.removeprefix(PREFIX).count("/") > 1 and (found is None or _FILES.search(text)):
            return None  # a file in it
        if found is None:
            raise InputError(f"{text}: no data set of the hub; write {PREFIX}ORG/NAME, with @REVISION if need be")
        return found
    if found is None or is_url(text) or Path(text).exists() or _FILES.search(text):
        return None
    if Path(text).parent.is_dir():
        raise InputError(f"{text}: no such file; check the path, or write {PREFIX}{text} for a data set of the hub")
    return found


def fetch(
    name: str, revision: str | None, split: str, config: str | None, *, offline: bool, notify: Notify
) -> tuple[Path, Origin]:
    """One split of a data set of the hub as a Parquet file under `.geofilter/`, named by its commit and made once.

    Args:
        revision: branch, tag or commit; the default branch when None.
        offline: take it from the cache of `datasets`, where an earlier call has left it.

    Raises:
        InputError: no such data set, revision, config or split; gated; not in the cache; or the hub does not answer.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the libraries are imported
    import datasets

    datasets.utils.logging.set_verbosity(CRITICAL)  # what it logs of an error is in the error
    commit = revision if offline else _commit(name, revision)
    with _loading(name, offline):
        builder = datasets.load_dataset_builder(f"{PREFIX}{name}", config, revision=commit)  # not a folder of that name
    if commit is not None and builder.hash != commit:
        # `datasets` takes what is in its cache when the hub fails it, whatever revision that is.
        what = "without the hub a revision is its full commit" if offline else "the hub does not answer; try again"
        raise InputError(f"{name}: the cache holds revision {builder.hash}, not {commit}; {what}")
    splits = [str(s) for s in builder.info.splits or getattr(builder.config, "data_files", None) or ()]
    if splits and split not in splits:
        raise InputError(f"{name}: has no split {split}; give one with --split: {', '.join(splits)}")
    origin = {"id": name, "config": builder.config.name, "split": split, "revision": str(builder.hash)}
    parts = [name, *([] if builder.config.name == "default" else [builder.config.name]), split, origin["revision"][:12]]
    path = Path(RUNS, f"{slug('-'.join(parts))}{ENDING}")
    if not path.is_file():
        notify(f"fetching {name}, split {split}, revision {origin['revision'][:12]} ...")
        make_folder(path.parent)
        with _loading(name, offline):
            builder.download_and_prepare()
        _write(builder.as_dataset(split=split), path)
    return path, origin


def _write(found: Dataset, path: Path) -> None:
    import pyarrow.parquet as pq

    at_once = rows_at_once(len(found), found.data.nbytes)
    with atomic(path) as handle, pq.ParquetWriter(handle, found.features.arrow_schema) as writer:
        for table in found.with_format("arrow").iter(at_once):  # as it is stored: no image or sound is decoded
            writer.write_table(table)


def _saved(text: str, split: str | None) -> Path | None:
    """The folder of the one data set that `save_to_disk` has written; None where it has not.

    Raises:
        InputError: a folder of several, and no split or none of them is given.
    """
    folder = Path(text)
    if (folder / SAVED).is_file():
        return folder
    if not (folder / SAVED_SEVERAL).is_file():
        return None
    names = sorted(path.parent.name for path in folder.glob(f"*/{SAVED}"))
    chosen = names[0] if split is None and len(names) == 1 else split
    if chosen not in names:
        has = "has several splits" if split is None else f"has no split {split}"
        raise InputError(f"{text}: {has}; give one with --split: {', '.join(names)}")
    return folder / chosen


def _saved_files(folder: Path) -> object:
    """The data files that a saved data set's state.json names.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return dict(from_json(own_bytes(folder / SAVED))).get("_data_files")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / SAVED}: damaged ({error}); save the data set again") from None


def load_saved(folder: Path, *, notify: Notify) -> tuple[Path, Origin]:
    """A data set that `save_to_disk` has written, as a Parquet file under `.geofilter/`, named by its content.

    Raises:
        InputError: it is damaged, has no rows, or has a column that Parquet cannot hold.
    """
    import datasets
    import pyarrow as pa

    digest = hashlib.sha256()
    try:
        for path in [*sorted(folder.glob("*.arrow")), folder / SAVED]:
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        split = {"split": folder.name} if (folder.parent / SAVED_SEVERAL).is_file() else {}
        origin = {"folder": str(folder), **split, "sha256": digest.hexdigest()}
        stem = "-".join(folder.resolve().parts[-1 - len(split) :])
        made = Path(RUNS, f"{slug(stem)}-{origin['sha256'][:12]}{ENDING}")
        if _saved_files(folder) == []:  # what `datasets` cannot read
            raise InputError(f"{folder}: has no rows; nothing to read")
        if not made.is_file():
            notify(f"reading {folder} ...")
            make_folder(made.parent)
            datasets.utils.logging.set_verbosity(CRITICAL)
            _write(datasets.load_from_disk(str(folder)), made)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: cannot be read as a data set of save_to_disk ({first_line(error)}); save it again, or write it "
            "with to_parquet and give that file"
        ) from None
    return made, origin


def _commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a data set is at now.

    Raises:
        InputError: no such data set or revision, or the hub does not answer.
    """
    from huggingface_hub import HfApi, errors

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha)
    except errors.GatedRepoError:
        raise _gated(name) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such file here, and no such data set on the hub, or a private one; check the name, or run: "
            "hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name}: has no revision {revision}; give a branch, tag or commit of it") from None
    except Exception as error:  # whatever the hub's client and the network raise
        raise InputError(
            f"{name}: no such file here, and the hub does not answer ({first_line(error)}); try again, or take what is "
            "in the cache with --offline"
        ) from None


def _gated(name: str) -> InputError:
    page = f"https://huggingface.co/datasets/{name}"
    return InputError(f"{name}: gated; ask for access at {page}, then run: hf auth login")


@contextmanager
def _loading(name: str, offline: bool) -> Iterator[None]:
    """Around `datasets`: what it raises, as one line with a remedy."""
    from datasets import config, exceptions

    try:
        yield
    except Exception as error:
        if isinstance(error, exceptions.DatasetNotFoundError) and "gated" in str(error):
            raise _gated(name) from None
        if offline and isinstance(error, ConnectionError):
            raise InputError(
                f"{name}: no such file here, not in the cache {config.HF_DATASETS_CACHE}, and the hub may not be used; "
                "run the same command once without --offline"
            ) from None
        # Of a configuration the second line names those there are.
        why = " ".join(str(error.__cause__ or error).splitlines()[:2]) or type(error).__name__
        remedy = "give one with --data-config" if "config" in why.lower() else "try again, or give its files instead"
        raise InputError(f"{name}: cannot be loaded: {why.rstrip('.')}; {remedy}") from None


def expand(data: Sequence[str]) -> tuple[str, ...]:
    """File names, those with * ? or [] that name no file taken as patterns: `data/*.jsonl`, `data/**/*.jsonl`.

    A pattern passes over what earlier commands have written beside the data, see `OUTPUTS`.

    Raises:
        InputError: a pattern that matches nothing.
    """
    out: list[str] = []
    for text in data:
        if not glob.has_magic(text) or Path(text).exists():
            out.append(text)
            continue
        # Not Path.glob, which takes no absolute pattern.
        found = sorted(name for name in glob.glob(text, recursive=True) if _is_input(name))  # noqa: PTH207
        if not found:
            raise InputError(f"{text}: matches no file; check the pattern and the folder")
        out += found
    return tuple(out)


def refuse_twice(data: Sequence[str]) -> None:
    """Refuse a file that is given twice, by whatever name.

    Raises:
        InputError: one is.
    """
    given: dict[Path, str] = {}
    for path in data:
        if (first := given.get(Path(path).resolve())) is not None:
            also = "" if first == path else f" (also as {first})"
            raise InputError(f"{path}: is given twice{also}, by name or through a pattern; give each file once")
        given[Path(path).resolve()] = path


def _is_input(name: str) -> bool:
    return Path(name).is_file() and not {f".{part}" for part in OUTPUTS} & set(Path(name).suffixes)


def spool(stream: IO[bytes], folder: Path) -> Path:
    """Write a stream to a file of `folder` that is named by its content, so that the same rows are the same file.

    Raises:
        InputError: the stream is empty or holds no rows that can be read, or the folder cannot be written.
    """
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
            try:
                while part := stream.read(1 << 20):
                    digest.update(part)
                    scratch.write(part)
                scratch.close()
                if not Path(scratch.name).stat().st_size:
                    raise InputError("-: standard input is empty; pipe rows into it")
                found = format_of(Path(scratch.name), "-")
                name = f"stdin-{digest.hexdigest()[:12]}{found.endings[0]}{found.packed}"
                return Path(scratch.name).replace(folder / name)
            finally:
                Path(scratch.name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); call it from another folder") from None
