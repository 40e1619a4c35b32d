"""Where a judge is asked, and when the next request may start."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping

from geofilter.errors import InputError
from geofilter.text import one_line

OPENAI = "https://api.openai.com/v1"
TIMEOUT: float = 60
"""seconds that an answer may take as a whole"""
RETRIES = 5
"""further tries when the endpoint is busy or fails"""
CONCURRENCY = 4
"""requests at once"""
MAX_CHARS = 6000
"""of a row's prompt, and of its response, that are sent"""


class Clock:
    """Time as the judge sees it; tests have one of their own."""

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""
        return time.monotonic()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Sleep, unless `stop` is set or gets set meanwhile.

        Raises:
            Stopped: it is.
        """
        if stop.wait(max(0.0, seconds)):
            raise Stopped


class Stopped(Exception):
    """Another worker has failed, or the run was interrupted: do not ask any more."""


class Pace:
    """When the next request may start, for all threads together."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        # Evenly spaced, so that no minute, wherever it begins, holds more than the limit.
        self._gap = 60 / per_minute if per_minute else 0.0
        self._clock, self._lock, self._next = clock, threading.Lock(), -math.inf

    def turn(self, stop: threading.Event) -> None:
        """Wait for this thread's turn."""
        with self._lock:
            now = self._clock.now()
            at = max(now, self._next)
            self._next = at + self._gap
        self._clock.wait(at - now, stop)

    def hold(self, seconds: float) -> None:
        """Nobody starts a request before then."""
        with self._lock:
            self._next = max(self._next, self._clock.now() + seconds)


def endpoint(base_url: str | None) -> str:
    """Where requests go: what is given, else OPENAI_BASE_URL, else OpenAI.

    Raises:
        InputError: not an http address, or one that carries a password, a blank or a control character.
    """
    from urllib.parse import urlsplit

    given = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip()
    if any(c in given for c in "@?#"):
        # Not repeated here: it may hold a password.
        raise InputError("--base-url: give it without user, password and query; the key goes into OPENAI_API_KEY")
    # urlsplit passes over line breaks and tabs, and others read a backslash as a slash.
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in given):
        raise InputError(
            f"--base-url {one_line(given)}: holds a blank, a control character or a backslash; give an address like "
            "http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InputError(f"--base-url {given}: not an address; give one like http://localhost:8000/v1")
    return given.rstrip("/")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait, given as a number or as a date."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)
