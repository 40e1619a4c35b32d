"""A language model as judge, over any OpenAI-compatible endpoint: the rival that the geometry is compared with."""

from __future__ import annotations

import json
import math
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from geofilter.errors import GeofilterError, InputError, TargetError, first_line
from geofilter.files import Notify, silent
from geofilter.judge.connection import Connection, reason
from geofilter.judge.endpoint import CONCURRENCY, OPENAI, RETRIES, TIMEOUT, Clock, Pace, endpoint, retry_after
from geofilter.judge.rating import DECLINED, FILTERED, FINAL, REFUSED, Rating, parse_rating
from geofilter.text import shorten

if TYPE_CHECKING:
    from openai import APIStatusError


Key = TypeVar("Key")

MAX_TOKENS = 32
"""of an answer: a number, with room for "I would rate this ..." around it"""
THINKING_TOKENS = 2000
"""of an answer by a model that refuses `max_tokens`: OpenAI's reasoning models, whose thinking counts"""
MAX_WAIT = 300.0
"""seconds; an endpoint that asks for more (a daily quota) ends the run"""
MAX_BACKOFF = 60.0
"""seconds"""
GRACE = 2.0
"""seconds that answers already asked for may take after an interrupt"""
MAX_UNANSWERED = 10
"""answers in a row without any text after which something is wrong with the endpoint, not with the rows"""
REPLY_CHARS = 500
"""of a reply that are kept"""
MOST_TOKENS = 100_000_000
"""of a request; what an endpoint counts beyond is no count"""


class Judge:
    """A chat model that answers prompts with a number.

    The key is taken from OPENAI_API_KEY and from nowhere else.

    Args:
        model: name as the endpoint knows it.
        base_url: of the endpoint, up to /v1; by default OPENAI_BASE_URL, else OpenAI's own.
        timeout: seconds that an answer may take as a whole.
        retries: further tries on time-outs, lost connections, 429 and 5xx.
        per_minute: requests that may start in any minute, retries included; None for no limit.
        concurrency: requests under way at once in `rate_all`.
        send_key: whether the endpoint may have the key.
        notify: told what the endpoint made necessary.

    Raises:
        InputError: an option that cannot be used, no key, or the openai package is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        per_minute: float | None = None,
        concurrency: int = CONCURRENCY,
        send_key: bool = True,
        notify: Notify = silent,
        clock: Clock | None = None,
    ) -> None:
        for option, value, good, remedy in (
            ("the judge's model", model, bool(model.strip()), "give its name as the endpoint knows it"),
            ("--timeout", timeout, 0 < timeout < math.inf, "give seconds, 60 for instance"),
            ("--retries", retries, retries >= 0, "give 0 or more"),
            ("--per-minute", per_minute, per_minute is None or 0 < per_minute < math.inf, "give a positive number"),
            ("--concurrency", concurrency, 1 <= concurrency <= 256, "give 1 to 256"),
        ):
            if not good:
                raise InputError(f"{option} {value}: cannot be used; {remedy}")
        try:
            import openai
        except ImportError:
            raise InputError(
                "a judge is asked through the openai package, which is not installed: pip install 'geofilter[judge]'"
            ) from None
        self.model, self.timeout, self.retries, self.concurrency = model, timeout, retries, concurrency
        self.base_url = endpoint(base_url)
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not all("!" <= c <= "~" for c in self._key):
            # Not repeated here, and the HTTP library would repeat it.
            raise InputError(
                "OPENAI_API_KEY: holds a blank, a line break or a letter that no key has; set it to the key alone"
            )
        if not self._key and self.base_url == OPENAI:
            raise InputError(
                "OPENAI_API_KEY is not set; set it in the environment, or give --base-url of a server of your own"
            )
        self._notify, self._clock = notify, clock or Clock()
        self._pace = Pace(per_minute, self._clock)
        self._openai = openai
        self._connection = Connection(openai, self.base_url, self._key if send_key else "", timeout)
        self._miscounted = False
        self._lock = threading.Lock()
        self._settings: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS}
        self.tokens_in = self.tokens_out = self.requests = 0
        """answered requests so far, and their tokens as the endpoint counts them (0 when it does not)"""

    def rate(self, prompt: str) -> Rating:
        """Ask once, and once more when the answer cannot be used.

        Raises:
            TargetError: the endpoint refuses, or fails through all retries.
        """
        return self._rate(prompt, threading.Event())

    def rate_all(
        self, prompts: Iterable[tuple[Key, str]], done: Callable[[Key, Rating], None], *, in_words: bool = False
    ) -> None:
        """Rate prompts with up to `concurrency` requests at once; no more than that many are held.

        Args:
            prompts: taken as they are needed, in the calling thread.
            done: told of each rating as it comes, in the calling thread; the order is the endpoint's.
            in_words: the prompts ask for words, not for a number: `Rating.reply` is what they are answered by.

        Raises:
            TargetError: as in `rate`; `done` has been told of all answers that came, those under way included.
            KeyboardInterrupt: likewise, but those under way have `GRACE` seconds.
        """
        stop = threading.Event()
        jobs: queue.SimpleQueue[tuple[Key, str] | None] = queue.SimpleQueue()
        results: queue.SimpleQueue[tuple[Key, Rating | Exception]] = queue.SimpleQueue()

        # Daemons: after an interrupt the process need not wait for an endpoint that hangs.
        for _ in range(self.concurrency):
            threading.Thread(target=self._work, args=(jobs, results, stop, in_words), daemon=True).start()
        under_way = unanswered = 0

        def take() -> None:
            nonlocal under_way, unanswered
            key, result = results.get()
            under_way -= 1
            if isinstance(result, Exception):
                raise result
            done(key, result)
            unanswered = 0 if result.answered else unanswered + 1
            if unanswered == MAX_UNANSWERED:
                raise TargetError(
                    f"{self.base_url}: {unanswered} rows in a row got no answer (the last: {result.error}); "
                    "check --base-url and the model's name"
                )

        try:
            for job in prompts:
                while under_way >= self.concurrency:
                    take()
                jobs.put(job)
                under_way += 1
            while under_way:
                take()
        except BaseException as error:
            stop.set()
            # What is under way is paid for: it is waited for and kept.
            deadline = time.monotonic() + (GRACE if isinstance(error, KeyboardInterrupt) else self.timeout)
            with suppress(queue.Empty):
                for _ in range(under_way):
                    key, result = results.get(timeout=max(0.0, deadline - time.monotonic()))
                    if isinstance(result, Rating):
                        with suppress(GeofilterError):  # the first failure is the one to tell
                            done(key, result)
            self._connection.abandon()
            raise
        finally:
            for _ in range(self.concurrency):
                jobs.put(None)

    def _work(
        self,
        jobs: queue.SimpleQueue[tuple[Key, str] | None],
        results: queue.SimpleQueue[tuple[Key, Rating | Exception]],
        stop: threading.Event,
        in_words: bool,
    ) -> None:
        """Rate prompts until there is None, in a thread of its own."""
        while (job := jobs.get()) is not None:
            try:
                results.put((job[0], self._ask(job[1], stop, True) if in_words else self._rate(job[1], stop)))
            except Exception as error:
                results.put((job[0], error))
                stop.set()  # here already, and after it was told: no other request begins meanwhile

    def _rate(self, prompt: str, stop: threading.Event) -> Rating:
        first = self._ask(prompt, stop)
        return first if first.value is not None or first.error in FINAL else self._ask(prompt, stop)

    def _ask(self, prompt: str, stop: threading.Event, in_words: bool = False) -> Rating:
        """One answer, usable or not, through all retries."""
        failed = 0
        while True:
            self._pace.turn(stop)
            sent = self._settings
            wait: float | None = None
            try:
                answer = self._connection.ask(model=self.model, messages=[{"role": "user", "content": prompt}], **sent)
            except TimeoutError:
                trouble = f"no answer within {self.timeout:g} s"
            except self._openai.APIConnectionError as error:
                trouble = f"connection failed: {reason(error)}"
            except self._openai.APIStatusError as error:
                if self._adapted(error, sent):
                    continue
                said = self._said(error)
                if error.code in ("content_filter", "content_policy_violation"):
                    # The row's doing, not the endpoint's: it would never pass, and the others can.
                    return Rating(None, said[:REPLY_CHARS], FILTERED)
                self._refused(error, said)
                trouble, wait = f"{error.status_code} {said}", retry_after(error.response.headers)
                if wait is not None:
                    self._pace.hold(wait)
            except (self._openai.OpenAIError, ValueError) as error:
                return Rating(None, "", f"not a chat completion: {shorten(self._clean(first_line(error)), 200)}")
            else:
                return self._read(answer, in_words)
            if failed == self.retries or (wait or 0) > MAX_WAIT:
                tries = f"{failed + 1} tries" if failed else "1 try"
                later = f"it asks to wait {wait:,.0f} s; " if (wait or 0) > MAX_WAIT else ""
                raise TargetError(
                    f"{self.base_url}: gave up after {tries} ({self._clean(trouble)}); {later}what is rated is kept: "
                    "run the same command again when the endpoint is well (geofilter judge has --retries and --timeout)"
                )
            # Jitter: threads that failed together should not come back together.
            backoff = min(MAX_BACKOFF, 2.0**failed) * random.uniform(0.5, 1)
            failed += 1
            self._clock.wait(backoff if wait is None else wait + random.uniform(0, 0.5), stop)

    def _read(self, answer: Any, in_words: bool) -> Rating:
        """The rating in what the client made of the endpoint's JSON; it does not check its form."""
        usage = getattr(answer, "usage", None)
        with self._lock:
            self.requests += 1
            self.tokens_in += self._count(usage, "prompt_tokens")
            self.tokens_out += self._count(usage, "completion_tokens")
        try:
            choice = answer.choices[0]
            text = choice.message.content
        except (AttributeError, IndexError, KeyError, TypeError):
            return Rating(None, "", "not a chat completion: no choices with a message in it")
        reply = self._clean(text.strip()) if isinstance(text, str) else ""
        ended = getattr(choice, "finish_reason", None)
        if ended == "content_filter":
            return Rating(None, reply[:REPLY_CHARS] or "content_filter", FILTERED)
        if not reply:
            return Rating(None, "", f"the answer is empty (finish_reason {shorten(self._clean(repr(ended)), 100)})")
        if in_words:
            cut = ended == "length"
            return Rating(None, "" if cut else reply[:REPLY_CHARS], "the answer was cut off" if cut else None)
        value = parse_rating(reply)
        if value is not None and ended == "length" and re.search(r"\d[.,/]?$", reply):
            return Rating(None, reply[:REPLY_CHARS], "the answer was cut off within or after its number")
        if value is None:
            why = REFUSED if DECLINED.search(reply) else "no single number from 0 to 100 in the reply"
            return Rating(None, reply[:REPLY_CHARS], why)
        return Rating(value, reply[:REPLY_CHARS])

    def _adapted(self, error: APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Whether the request can be sent again without a parameter that the model does not know.

        OpenAI's reasoning models refuse `max_tokens`, and any temperature but their own.
        """
        if error.status_code != 400:
            return False
        with self._lock:
            if self._settings is not sent:
                return True  # another thread has met it first
            settings = dict(self._settings)
            if error.param == "max_tokens" and "max_tokens" in settings:
                del settings["max_tokens"]
                settings["max_completion_tokens"] = THINKING_TOKENS
                said = f"thinks before it answers: up to {THINKING_TOKENS:,} tokens a row, not in the estimate"
            elif error.param == "temperature" and "temperature" in settings:
                del settings["temperature"]
                said = "takes no temperature of 0: its ratings may differ from one run to the next"
            else:
                return False
            self._settings = settings
        self._notify(f"{self.model} {said}")
        return True

    def _refused(self, error: APIStatusError, said: str) -> None:
        """Raise if asking again cannot help."""
        status, quota = error.status_code, error.code == "insufficient_quota"
        if (status in (408, 429) or status >= 500) and not quota:
            return
        remedy = {
            401: "set OPENAI_API_KEY to a key of this endpoint",
            403: "the key may not use this model; check the model's name and OPENAI_API_KEY",
            404: "check the model's name and --base-url (most end in /v1)",
            405: "check --base-url (most end in /v1)",
            413: "send it less at once (--max-chars)",
            429: "the account has no credit left; add some, then run the same command again",
        }.get(status, "check the model's name, or send it less at once (--max-chars) if that is too long for it")
        if 300 <= status < 400:
            to = shorten(self._clean(error.response.headers.get("location", "nowhere")), 300)
            remedy = f"it redirects to {to}; give that as --base-url"
        raise TargetError(f"{self.base_url}: {status} {said}; {remedy}")

    def _said(self, error: APIStatusError) -> str:
        """The endpoint's own message, on one line."""
        body: Any = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or (json.dumps(body) if body else "")
        text = " ".join(str(body or error.response.reason_phrase).split())
        return shorten(self._clean(text), 300)

    def _clean(self, text: str) -> str:
        """Without the key, which some endpoints repeat."""
        return text.replace(self._key, "(key)") if self._key else text

    def _count(self, usage: Any, name: str) -> int:
        """Tokens as the endpoint counts them; 0 where it does not, or where what it says is no count."""
        value = getattr(usage, name, None)
        if value is None or (type(value) is int and 0 <= value <= MOST_TOKENS):
            return value or 0
        if not self._miscounted:
            self._miscounted = True
            said = shorten(self._clean(repr(value)), 40)
            self._notify(f"the endpoint says {name} = {said}, which is no count: left out of what was spent")
        return 0
