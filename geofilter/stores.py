"""Stores behind URLs (s3://, gs://, hf://, memory:// and what else fsspec reads): folders of objects, each whole or not
there.

fsspec, and what it needs for a kind of store, are imported when a URL is first used.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from geofilter.errors import GeofilterError, InputError, first_line
from geofilter.text import one_line, shorten
from geofilter.together import Together

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AS_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/[^/]")
"""what a path makes of a URL"""
_SECRET = re.compile(r"(?!arn:)[^/@]*:[^@]*@")
"""user and secret before a host"""
_QUERY = re.compile(r"\?[^/?]*=.*", re.DOTALL)
_NAMED_USERS = {"abfs", "abfss", "sftp", "ssh", "smb"}
"""URLs of these say NAME@HOST, which is no secret"""
_PUT_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "oss", "oci", "r2", "memory"}
"""where an object that is written appears whole; elsewhere it is renamed into place"""
_IDENTIFIES = ("ETag", "md5Hash", "etag", "blob_id", "Content-MD5", "Digest", "generation", "mtime", "LastModified",
               "Last-Modified", "last_modified", "modified", "updated", "created")  # fmt: skip
"""what stores call that by which an object's bytes are told from others of its name, the surest first"""
_CHANGED = ("LastModified", "mtime", "last_modified", "updated", "modified", "created")
_EXTRAS = {"s3": "pip install 'geofilter[s3]'", "s3a": "pip install 'geofilter[s3]'", "gs": "pip install gcsfs",
           "gcs": "pip install gcsfs", "az": "pip install adlfs", "abfs": "pip install adlfs",
           "abfss": "pip install adlfs", "http": "pip install aiohttp", "https": "pip install aiohttp",
           "sftp": "pip install paramiko", "ssh": "pip install paramiko"}  # fmt: skip
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN, or run: hf auth login",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_REFUSED = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError",
            "ClientAuthenticationError", "RefreshError", "GatedRepoError"}  # fmt: skip
"""errors of libraries that say, by another name than PermissionError, that there are no credentials"""
_LIKE_SECRETS = re.compile(r"SECRET|TOKEN|PASSWORD|_KEY")
"""names of environment variables whose values are never said"""


def is_url(text: str) -> bool:
    """Whether a text names something in a store, rather than a file."""
    return _URL.match(text) is not None


def was_url(path: Path) -> bool:
    """Whether a path was made of a URL, by a command that writes only files."""
    return _AS_PATH.match(str(path)) is not None


def protocol_of(url: str) -> str:
    """What stands before `://`."""
    found = _URL.match(url)
    return found[1].lower() if found else ""


def _carries_credentials(url: str) -> bool:
    rest = url.partition("://")[2]
    user = "@" in rest.partition("/")[0] and protocol_of(url) not in _NAMED_USERS
    return user or _SECRET.match(rest) is not None


def shown(url: str) -> str:
    """A URL as it may be said and written: without a secret."""
    head, _, rest = url.partition("://")
    if _carries_credentials(url):
        rest = f"***@{rest.rpartition('@')[2]}"
    return f"{head}://{_QUERY.sub('?...', rest)}"


def checked(url: str) -> str:
    """A URL that may be recorded, without slashes at its end.

    Raises:
        InputError: it carries credentials, has a query, which may do so, or goes through another URL.
    """
    rest, protocol = url.partition("://")[2], protocol_of(url)
    if _carries_credentials(url):
        where = _CREDENTIALS.get(_SAME.get(protocol, protocol), "the environment variables of its store")
        raise InputError(f"{shown(url)}: credentials do not belong into a URL, which is recorded; set {where}")
    if _QUERY.search(rest):
        raise InputError(
            f"{shown(url)}: its query may hold a secret, and URLs are recorded; download it, give the file"
        )
    if "::" in url or "\0" in url:
        raise InputError(f"{shown(url)}: is no URL of a file; give one that begins with its store, s3:// for instance")
    if not rest.strip("/"):
        raise InputError(f"{url}: names nothing in the store; give its folder or file too")
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class Held:
    """An object as a store tells of it."""

    version: str
    """what tells its bytes from others of its name, in words; empty where the store says nothing"""
    size: int | None
    changed: float | None
    """when, in seconds since 1970"""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Held:
        """Of what fsspec tells."""
        size, key = info.get("size"), next((key for key in _IDENTIFIES if info.get(key)), "")
        version = f"{key} {str(_seconds(info[key])).strip(chr(34))}, {size} bytes" if key else ""
        changed = _seconds(next((info[key] for key in _CHANGED if info.get(key)), None))
        return cls(version, size, float(changed) if isinstance(changed, int | float) else None)


def _seconds(value: Any) -> Any:
    """A date as seconds since 1970, which some stores tell at one time and as a date at another; all else as it is."""
    return value.timestamp() if isinstance(value, datetime) else value


class Store:
    """A folder in a store, or the parent of a file.

    Args:
        url: of the folder, see `checked`.
        failure: the error that what goes wrong here is.
    """

    def __init__(self, url: str, failure: type[GeofilterError] = InputError) -> None:
        self.url, self._failure = checked(url), failure

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        """The file system and the folder's path in it."""
        with self._told(self.url, "cannot be opened"):
            import fsspec

            fs, path = fsspec.core.url_to_fs(self.url)
            return fs, str(path).rstrip("/")

    def _remote(self, name: str) -> str:
        return f"{self._opened[1]}/{name}"

    def url_of(self, name: str) -> str:
        """The URL of an object of this folder."""
        return f"{self.url}/{name}"

    def names(self) -> dict[str, Held]:
        """Every object below this folder, by its path from there as the store gives it; of a folder that is not there
        none.

        Raises:
            GeofilterError: the store cannot be read.
        """
        with self._told(self.url, "cannot be listed"):
            fs, root = self._opened
            fs.invalidate_cache()
            try:
                found = fs.find(root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            return {
                str(path)[len(root) + 1 :]: Held.of(info)
                for path, info in found.items()
                if str(path).startswith(f"{root}/") and info.get("type") != "directory"
            }

    def matching(self, pattern: str) -> list[str]:
        """The files of this folder that a pattern with * ? or [] matches, by their names from here, ascending.

        Raises:
            GeofilterError: the store cannot be read.
        """
        with self._told(self.url, "cannot be listed"):
            fs, root = self._opened
            fs.invalidate_cache()
            found = fs.glob(self._remote(pattern), detail=True)
            files = [str(path) for path, info in found.items() if info.get("type") == "file"]
            return sorted(path[len(root) + 1 :] for path in files if path.startswith(f"{root}/"))

    def held(self, name: str) -> Held:
        """What the store tells of an object.

        Raises:
            GeofilterError: it is not there, or is a folder, or the store cannot be read.
        """
        url = self.url_of(name)
        with self._told(url, "cannot be read"):
            fs = self._opened[0]
            fs.invalidate_cache()
            info = fs.info(self._remote(name))
            if info.get("type") == "directory":
                raise self._failure(f"{url}: is a folder; give its files, by a pattern such as {url}/*.jsonl")
            return Held.of(info)

    def fetch(self, name: str, to: Path, mode: int | None = None) -> Held:
        """Copy an object to a file, which appears whole or not at all; return what it is.

        Args:
            mode: permissions of the file.

        Raises:
            GeofilterError: it cannot be read, or it changed meanwhile.
            NotWrittenError: the file cannot be written.
        """
        url, before = self.url_of(name), self.held(name)
        with Together() as files, files.open(to, mode):
            scratch = files.written(to)
            with self._told(url, "cannot be read"):
                # Into the file that is open here: it is brought to the disk, and appears, as every other.
                self._opened[0].get_file(self._remote(name), str(scratch))
            size, after = scratch.stat().st_size, self.held(name)
            if after != before or before.size not in (None, size):
                raise self._failure(f"{url}: changed, or was cut off, while it was read; run the same command again")
        if before.changed is not None:
            with suppress(OSError, ValueError, OverflowError):
                os.utime(to, (before.changed, before.changed))
        return before

    def publish(self, path: Path, name: str) -> Held:
        """Put a file into the store, where it appears whole or not at all; return what it is there.

        Raises:
            GeofilterError: it cannot be written.
        """
        with self._told(self.url_of(name), "cannot be written"):
            fs, remote = self._opened[0], self._remote(name)
            if protocol_of(self.url) in _PUT_WHOLE:
                fs.put_file(str(path), remote)
            else:
                parent = str(PurePosixPath(remote).parent)
                fs.makedirs(parent, exist_ok=True)
                scratch = f"{parent}/.geofilter-{secrets.token_hex(8)}.tmp"
                try:
                    fs.put_file(str(path), scratch)
                    fs.mv(scratch, remote)
                except BaseException:
                    with suppress(Exception):
                        fs.rm_file(scratch)
                    raise
            fs.invalidate_cache()
            return Held.of(fs.info(remote))

    def delete(self, name: str) -> None:
        """Take an object away, if it is there.

        Raises:
            GeofilterError: it cannot be taken away.
        """
        with self._told(self.url_of(name), "cannot be removed"), suppress(FileNotFoundError):
            self._opened[0].rm_file(self._remote(name))

    @contextmanager
    def _told(self, url: str, does: str) -> Iterator[None]:
        """Say of what a store's libraries raise, in a line, what it is of and what helps."""
        try:
            yield
        except GeofilterError:
            raise
        except Exception as error:
            raise self._failure(f"{url}: {_said(error, does, protocol_of(url))}") from None


def _said(error: Exception, does: str, protocol: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    why = shorten(_without_secrets(one_line(first_line(error))), 200)
    if isinstance(error, ImportError):
        remedy = _EXTRAS.get(protocol, "install what fsspec needs for it")
        return f"nothing is installed that reads {protocol}://; {remedy}"
    if "Protocol not known" in why:
        return f"no store is known by {protocol}://; check the URL"
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(error, PermissionError) or kinds & _REFUSED or status in (401, 403, "401", "403"):
        where = _CREDENTIALS.get(_SAME.get(protocol, protocol), "the credentials of this store")
        return f"{does} ({why}); check that you may, and set {where}"
    if isinstance(error, FileNotFoundError):
        return f"{does} ({why if ' ' in why else 'it is not there'}); check the name, and that of the bucket"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{does} ({why}); free some space here, then run the same command again"
    if isinstance(error, NotImplementedError):
        return f"{does}: {protocol}:// can only be read; give another store or a folder"
    return f"{does} ({why}); check the network and the address, then run the same command again"


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 8 and _LIKE_SECRETS.search(name):
            text = text.replace(value, "***")
    return _QUERY.sub("?...", text)
