"""Chat templates, rendered in a process of its own: they are programs that come with a model, and may never end."""

from __future__ import annotations

import atexit
import json
import os
import threading
from subprocess import Popen
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from geofilter.apart import MEMORY, NO_MEMORY, end, limit_memory, limit_time, ran_long, start, start_ahead
from geofilter.errors import TargetError, first_line
from geofilter.rows.row_error import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 5.0
"""of computing that rendering a row may take; it takes milliseconds"""
MOST_CHARS = 1 << 25
"""that it may make of a row"""
PATIENCE = 3
"""rows on which a template may go over a limit, before it is held to do so on any"""
_MODULE = "encode.template_apart"
_RENDERED, _REFUSED = "=", "!"
_SIZE = 8
"""bytes that say how long what follows is"""


class Renderer:
    """The process that renders; started when it is needed, and again when a template has ended it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """Take the seconds of computing that rendering a row may take."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: Popen[bytes] | None = None
        self._started_by = 0
        self._known: list[Any] = []
        """template and special tokens, as the process has them"""
        self._failed: dict[str, int] = {}
        """template -> rows on which it went over a limit"""

    def start_ahead(self) -> None:
        """See to it that the process is there when the first row is, unless one is already."""
        if self._process is None or self._started_by != os.getpid():
            start_ahead(_MODULE, str(self._seconds))

    def render(
        self, tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, Any]], tools: list[Any] | None
    ) -> str:
        """What a template of a tokenizer makes of messages, as its `apply_chat_template` does.

        Raises:
            TemplateRefusal: the template raises an error.
            RowError: it takes too much time or memory, or makes too much text of the row.
            TargetError: it has done so with several rows.
        """
        known = [template, tokenizer.special_tokens_map]
        with self._lock:
            try:
                kind, text = self._ask(known, {"messages": messages, "tools": tools})
                if len(text) > MOST_CHARS:
                    raise _OverLimit(f"makes over {MOST_CHARS:,} characters of the row")
            except _OverLimit as error:
                self._close()
                raise self._refused(tokenizer, template, str(error)) from None
            except BaseException:
                self._close()  # an answer that nobody has waited for would be taken for the next one
                raise
        if kind == _REFUSED:
            raise TemplateRefusal(text)
        return text

    def _refused(self, tokenizer: PreTrainedTokenizerBase, template: str, why: str) -> RowError | TargetError:
        """The error of a row for which a template goes over a limit; it is the row's fault or the template's."""
        self._failed[template] = self._failed.get(template, 0) + 1
        if self._failed[template] < PATIENCE:
            return RowError(f"the chat template {why}; shorten or remove it")
        return TargetError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: the chat template {why}, and {PATIENCE} rows were like "
            "that; mend its chat template (chat_template.jinja or tokenizer_config.json)"
        )

    def _ask(self, known: list[Any], request: dict[str, Any]) -> tuple[str, str]:
        if self._started_by != os.getpid():
            self._process = None  # of the process that this one was forked from
        if self._process is None:
            self._started_by = os.getpid()
            self._process, self._known = start(_MODULE, str(self._seconds)), []
            atexit.register(self._close)
        if known != self._known:
            request["known"] = self._known = known
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None and pipes[1] is not None
        try:
            send(pipes[0], json.dumps(request, ensure_ascii=False))
            answer = receive(pipes[1])
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise _OverLimit(self._why_ended(self._process.wait()))
        return answer[:1], answer[1:]

    def _why_ended(self, code: int) -> str:
        """What a template does that has ended its process with this code."""
        if code == NO_MEMORY:
            return f"takes over {MEMORY / (1 << 30):g} GiB of memory for the row"
        if ran_long(code):
            return f"takes over {self._seconds:g} seconds of computing for the row"
        return f"ends its process with code {code} at the row"

    def _close(self) -> None:
        if self._process is not None:
            end(self._process)
            atexit.unregister(self._close)
        self._process = None


RENDERER = Renderer()


class TemplateRefusal(Exception):
    """What a template has raised."""


class _OverLimit(Exception):
    """What a template has done with a row that it may not."""


def send(pipe: IO[bytes], text: str) -> None:
    """Write a text, behind its length."""
    data = text.encode("utf-8", "surrogatepass")
    pipe.write(len(data).to_bytes(_SIZE, "big") + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> str | None:
    """Read what `send` has written; None at the end."""
    size = pipe.read(_SIZE)
    if len(size) < _SIZE:
        return None
    data = pipe.read(n := int.from_bytes(size, "big"))
    return data.decode("utf-8", "surrogatepass") if len(data) == n else None


def serve(requests: IO[bytes], answers: IO[bytes], seconds: float) -> int:
    """Render what `Renderer` asks for, in a process that may be ended; return its exit code."""
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    apply = PreTrainedTokenizerBase.apply_chat_template
    limit_memory()
    # All that is asked of a tokenizer when its template is given.
    tokenizer: Any = SimpleNamespace(get_chat_template=lambda template, tools: template)
    template = ""
    try:
        while (text := receive(requests)) is not None:
            request = json.loads(text)
            if "known" in request:
                template, tokenizer.special_tokens_map = request["known"]
            messages, tools = request["messages"], request["tools"]
            limit_time(seconds)
            try:
                made = _RENDERED + str(apply(tokenizer, messages, tools=tools, chat_template=template, tokenize=False))
            except MemoryError:
                raise
            except Exception as error:  # templates raise whatever they like, TemplateError most often
                made = _REFUSED + first_line(error)
            limit_time(0)
            send(answers, made[: MOST_CHARS + 2])
    except MemoryError:
        return NO_MEMORY
    return 0
