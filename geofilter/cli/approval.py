"""Endpoints that a settings file names: used only where a person has approved them, once.

A base-url decides who gets the rows, and the key. One that is typed, or stands in OPENAI_BASE_URL, is the person's own;
one in a file may have come with the data.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from geofilter.cli.output import note
from geofilter.cli.settings_file import SettingsFile, Taken
from geofilter.errors import InputError
from geofilter.files import make_folder, write_json
from geofilter.judge.endpoint import endpoint

KEY = "base_url"


def config_dir() -> Path:
    """`GEOFILTER_CONFIG`, else the platform's folder of the user's own configuration."""
    return Path(os.environ.get("GEOFILTER_CONFIG") or platformdirs.user_config_path("geofilter"))


def record() -> Path:
    """The file that keeps what was approved: by the settings file's path, its endpoints."""
    return config_dir() / "trusted.json"


def endpoints(found: SettingsFile) -> list[str]:
    """The endpoints that a settings file names, in whatever table."""
    return sorted(set(_named(found.values)))


def _named(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if key == KEY and isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _named(value)


def approved() -> dict[str, list[str]]:
    """Endpoints that were approved, by the path of the settings file.

    Raises:
        InputError: the record cannot be read.
    """
    try:
        found = json.loads(record().read_text("utf-8"))
        return {str(path): [str(url) for url in urls] for path, urls in found["base_urls"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{record()}: cannot be read ({error.strerror}); mend or delete it") from None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise InputError(f"{record()}: is damaged; delete it, and run geofilter settings trust again") from None


def approve(path: Path, urls: list[str]) -> None:
    """Keep that these endpoints, and no others, may be taken from a settings file; none forgets the file.

    Raises:
        InputError: the record cannot be read or written.
    """
    kept = {**approved(), str(path): urls}
    if not urls:
        del kept[str(path)]
    make_folder(config_dir())
    write_json(record(), {"format": 1, "base_urls": kept})


def may_have_key(url: str) -> bool:
    """Whether a key may go to an endpoint that a file names: over TLS, or to this very machine."""
    return urlsplit(url).scheme == "https" or is_loopback(url)


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_endpoint(taken: Taken | None, base_url: str | None) -> bool:
    """Check an endpoint where a settings file has named it; say whether it may be given the key.

    One that was typed, or that OPENAI_BASE_URL names, is the person's own.

    Raises:
        InputError: it is no address, or the file's endpoint was not approved. One of this machine needs no approval
            where there is no key: rows stay here.
    """
    if taken is None or base_url is None or "base-url" not in taken.values:
        return True
    if endpoint(base_url) == endpoint(None):  # as without the file
        return True
    key = bool(os.environ.get("OPENAI_API_KEY", "").strip())
    if base_url in approved().get(str(Path(taken.name).resolve()), ()):
        if key and not may_have_key(base_url):
            note(f"{base_url} is not https, so the key of OPENAI_API_KEY is not sent; type --base-url to send it")
        return may_have_key(base_url)
    if is_loopback(base_url) and not key:
        return False
    what = "rows and the key of OPENAI_API_KEY" if key and may_have_key(base_url) else "rows"
    raise InputError(
        f"{taken.name}: base-url = {json.dumps(base_url)} would be sent {what}, and a file that lies beside the data "
        "does not decide that; type --base-url, or approve it once: geofilter settings trust"
    )
