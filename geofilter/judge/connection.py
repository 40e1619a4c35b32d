"""Requests to one endpoint: each answer is bounded in time, in bytes and in depth, and only what must be is sent.

The openai package's time-outs are for each read, so an endpoint that drips a byte a second would hold a request for
ever; and it reads whatever comes. Here a request is a task of an event loop in a thread of its own, which is cancelled
when its time is over, and its answer is read no further than the bounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from geofilter.errors import InputError, first_line

MOST_BYTES = 4 << 20
"""of an answer; a number takes a few hundred"""
MOST_DEPTH = 64
"""arrays and objects in each other in an answer; a chat completion has about six"""
OWNER = "api.openai.com"
"""the only host that OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS belong to"""
_SENT = ("accept", "connection", "content-length", "content-type", "host", "user-agent")
"""headers that any endpoint gets, beside those that `_bounded_client` sets"""
_KEPT = ("content-type", "location", "retry-after")
"""headers of an answer that are looked at"""


class UnusableAnswer(ValueError):
    """An answer beyond the bounds."""


class Connection:
    """A way to an endpoint; requests may be made from any thread.

    Args:
        openai: the package.
        base_url: as `endpoint.endpoint` gives it.
        key: sent as it is; empty for none.
        timeout: seconds that a whole answer may take.

    Raises:
        InputError: an address that cannot be used.
    """

    def __init__(self, openai: Any, base_url: str, key: str, timeout: float) -> None:
        self._openai, self.timeout = openai, timeout
        try:
            # One retry policy, the judge's. No redirects: rows go to the endpoint that was named and nowhere else.
            self._client = openai.AsyncOpenAI(
                api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0,
                http_client=_bounded_client(openai, base_url, key)(follow_redirects=False, timeout=timeout),
            )  # fmt: skip
        except Exception as error:  # whatever the HTTP library says of an address
            raise InputError(f"--base-url {base_url}: cannot be used ({first_line(error)})") from None
        self._loop = asyncio.new_event_loop()
        # A daemon: after an interrupt the process need not wait for an endpoint that hangs.
        threading.Thread(target=_run, args=(self._loop,), daemon=True).start()
        weakref.finalize(self, _stop, self._loop, self._client).atexit = False
        self._under_way: set[Future[Any]] = set()

    def ask(self, **request: Any) -> Any:
        """The endpoint's chat completion, as the openai package makes it of the JSON; it does not check its form.

        Raises:
            TimeoutError: the whole answer was not there in time.
            UnusableAnswer: it is beyond the bounds.
            openai.OpenAIError: as the package raises them.
        """
        future = asyncio.run_coroutine_threadsafe(self._ask(request), self._loop)
        self._under_way.add(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            self._under_way.discard(future)

    async def _ask(self, request: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self.timeout):
                return await self._client.chat.completions.create(**request)
        except self._openai.APITimeoutError:
            raise TimeoutError from None
        except self._openai.APIConnectionError as error:
            if isinstance(error.__cause__, UnusableAnswer):
                raise error.__cause__ from None
            raise
        except RecursionError:
            raise UnusableAnswer("its JSON is nested too deeply") from None

    def abandon(self) -> None:
        """End the requests under way."""
        for future in list(self._under_way):
            future.cancel()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """End a loop that nobody uses any more, from any thread."""

    async def end() -> None:
        with suppress(Exception):  # of connections that are gone already
            await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)


def reason(error: BaseException) -> str:
    """Why a connection failed, in the system's words where it has some."""
    found: BaseException = error
    while True:
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        elif isinstance(found, OSError) and found.errno is not None and found.errno > 0:
            return f"[Errno {found.errno}] {os.strerror(found.errno)}"
        elif (deeper := found.__cause__ or found.__context__) is not None:
            found = deeper
        else:
            return first_line(found) if isinstance(found, Exception) else type(found).__name__


def _bounded_client(openai: Any, base_url: str, key: str) -> Any:
    """The openai package's HTTP client, of whichever library it uses, with bounds on what goes out and comes in."""
    owned = (urlsplit(base_url).hostname or "") == OWNER

    class Bounded(openai.DefaultAsyncHttpxClient):  # type: ignore[misc]
        async def send(self, request: Any, **options: Any) -> Any:
            if not owned:
                for name in [name for name in request.headers if name.lower() not in _SENT]:
                    del request.headers[name]
            request.headers["Authorization"] = f"Bearer {key or 'none'}"
            # Not compressed: a few bytes of that would be gigabytes.
            request.headers["Accept-Encoding"] = "identity"
            answer = await super().send(request, **{**options, "stream": True})
            try:
                body = await _read(answer)
            finally:
                await answer.aclose()
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            if "content-type" in kept:  # without a charset, which may be anything
                kept["content-type"] = kept["content-type"].partition(";")[0]
            return type(answer)(answer.status_code, headers=kept, content=body, request=request)

    return Bounded


async def _read(answer: Any) -> bytes:
    """The body of an answer; of an error too large to read its beginning.

    Raises:
        UnusableAnswer: it is compressed, too large or too deep.
    """
    failed = answer.status_code >= 300
    if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        if failed:
            return b""
        raise UnusableAnswer("it is compressed, which was not asked for")
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            if failed:
                return bytes(body[:1000])
            raise UnusableAnswer(f"it is longer than {MOST_BYTES >> 20} MiB")
    if _too_deep(bytes(body)):
        if failed:
            return b""
        raise UnusableAnswer("its JSON is nested too deeply")
    return bytes(body)


def _too_deep(body: bytes) -> bool:
    try:
        level = [json.loads(body)]
    except RecursionError:
        return True
    except ValueError:  # no JSON: the package says so
        return False
    for _ in range(MOST_DEPTH):
        inner = [x for x in level if isinstance(x, dict | list)]
        level = [x for outer in inner for x in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return True
