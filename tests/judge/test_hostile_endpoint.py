"""Endpoints that mean harm: they drip, flood, nest, miscount, and repeat the key."""

import gzip
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import geofilter
from helpers.endpoint import row_of, said
from helpers.judging import KEY, alignments, data, judge, lines, run_until

from geofilter.errors import TargetError
from geofilter.judge import connection
from geofilter.judge.client import Judge
from geofilter.judge.rows import by_judge
from geofilter.rows.records import Row, read_rows

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Raw:
    """A server that sends the pieces it is given, byte for byte, to each request, until it is stopped or left."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]], pause: float = 0) -> None:
        self.pieces, self.pause, self.sent, self.requests = pieces, pause, 0, list[bytes]()
        self.stopped = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.stopped.is_set():
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            self.requests.append(client.recv(65536))
            try:
                for piece in self.pieces():
                    client.sendall(piece)
                    self.sent += len(piece)
                    if self.pause and self.stopped.wait(self.pause):
                        return
            except OSError:  # the other side has had enough
                pass


@pytest.fixture
def raw():
    opened: list[Raw] = []

    def start(pieces: Callable[[], Iterator[bytes]], pause: float = 0) -> Raw:
        opened.append(Raw(pieces, pause))
        return opened[-1]

    yield start
    for server in opened:
        server.stopped.set()
        server.socket.close()


def drip(text: bytes) -> Iterator[bytes]:
    yield from (text[i : i + 1] for i in range(len(text)))


@pytest.mark.parametrize("part", ["headers", "body", "chunks"])
def test_a_dripping_answer_is_over_when_its_time_is(part: str, tmp_path: Path, raw):
    pieces = {
        "headers": lambda: drip(HEAD + b"X-Slow: " + b"y" * 600),
        "body": lambda: iter([HEAD + b"Content-Length: 600\r\n\r\n", *drip(b" " * 600)]),
        "chunks": lambda: iter([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *([b"1\r\n \r\n"] * 600)]),
    }[part]
    server = raw(pieces, 0.05)
    done = judge(server, data(tmp_path, 1), "--timeout", "0.5", "--retries", "0", cwd=tmp_path)
    assert done.returncode == 3
    assert f"{server.url}: gave up after 1 try (no answer within 0.5 s)" in done.stderr


def _flood() -> Iterator[bytes]:
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for _ in range(1024):
        yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"


def test_a_flood_is_read_no_further_than_its_bound(raw):
    server = raw(_flood)
    rating = Judge("m", server.url).rate("how good?")
    assert rating.error == "not a chat completion: it is longer than 4 MiB"
    assert server.sent < 32 << 20  # twice, and what lies in the system's buffers


def test_a_flood_of_an_error_is_its_status(raw):
    def flood() -> Iterator[bytes]:
        head, *rest = _flood()
        return iter([head.replace(b"200 OK", b"404 Not Found"), *rest])

    server = raw(flood)
    with pytest.raises(Exception, match="404 Not Found; check the model's name and --base-url"):
        Judge("m", server.url).rate("how good?")
    assert server.sent < 16 << 20


def test_an_answer_that_unpacks_to_more_is_not_unpacked(serve):
    bomb = gzip.compress(json.dumps(said("80" + " " * (64 << 20))).encode())
    assert len(bomb) < 1 << 20
    endpoint = serve(lambda number, body: (200, bomb, {"Content-Encoding": "gzip"}))
    error = Judge("m", endpoint.url).rate("how good?").error
    assert error == "not a chat completion: it is compressed, which was not asked for"


@pytest.mark.parametrize("depth", [connection.MOST_DEPTH + 1, 100_000])
@pytest.mark.parametrize("place", ["alone", "beside", "error"])
def test_json_nested_too_deeply(depth: int, place: str, tmp_path: Path, serve):
    deep = b"[" * depth + b"]" * depth
    answer: Any = {
        "alone": deep,
        "beside": json.dumps({**said("80"), "x": 0}).encode().replace(b'"x": 0', b'"x": ' + deep),
        "error": (400, b'{"error": {"message": "no", "param": ' + deep + b"}}"),
    }[place]
    endpoint = serve(lambda number, body: answer)
    done = judge(endpoint, data(tmp_path, 1), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    text = "400 Bad Request" if place == "error" else "not a chat completion: its JSON is nested too deeply"
    assert text in done.stderr.splitlines()[-1]


def test_a_charset_that_is_none_does_no_harm(serve, tmp_path: Path):
    endpoint = serve(lambda number, body: (400, b"no", {"Content-Type": "text/plain; charset=hex"}))
    assert "400 no; " in judge(endpoint, data(tmp_path, 1), cwd=tmp_path).stderr


@pytest.mark.parametrize("count", [-1, -(10**9), 10**30, 1.5, True, "12", [1], {"a": 1}, float("nan")])
def test_what_is_no_count_of_tokens_is_left_out(count: Any, tmp_path: Path, serve):
    endpoint = serve(lambda number, body: said("80", prompt_tokens=count, completion_tokens=count))
    prices = ("--price-in", "1000000", "--price-out", "1000000", "--max-cost", "1e12")
    done = judge(endpoint, data(tmp_path, 2), *prices, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["tokens_in"], result["tokens_out"]) == (0, 0)
    assert done.stderr.count("which is no count: left out of what was spent") == 1


def test_some_unusable_answers_are_counted_and_all_are_an_error(tmp_path: Path, serve):
    endpoint = serve(lambda number, body: "no idea" if len(endpoint.bodies) > 1 else "80")
    path = data(tmp_path, 3)
    done = judge(endpoint, path, "--concurrency", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["rated"], json.loads(done.stdout)["unusable"]) == (1, 2)
    endpoint.script = lambda number, body: "no idea"
    for _ in range(2):  # again with nothing left to ask
        done = judge(endpoint, path, "--out", tmp_path / "other.jsonl", "--json", cwd=tmp_path)
        assert done.returncode == 3
        assert json.loads(done.stdout)["unusable"] == 3
        assert done.stderr.splitlines()[-1] == (
            f"geofilter: error: {endpoint.url}: none of 3 answers by m could be used (no single number from 0 to 100 "
            "in the reply); check the model's name, or take one that follows the prompt"
        )
    assert alignments(tmp_path / "other.jsonl") == [None] * 3


SECRETS = {"OPENAI_ORG_ID": "org-canary", "OPENAI_PROJECT_ID": "proj-canary", "OPENAI_CUSTOM_HEADERS": "X-A: canary"}


@pytest.mark.parametrize(("host", "sent"), [("judge.example", False), ("api.openai.com", True)])
def test_organisation_headers_go_to_their_owner_only(host: str, sent: bool, raw, monkeypatch):
    body = json.dumps(said("80")).encode()
    server = raw(lambda: iter([HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body]))
    # The server stands in for the hosts as their proxy.
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Judge("m", f"http://{host}/v1").rate("how good?").value == 80
    (request,) = server.requests
    assert f"Bearer {KEY}".encode() in request
    assert (b"org-canary" in request, b"proj-canary" in request) == (sent, sent)
    if not sent:
        assert b"canary" not in request


@pytest.mark.parametrize(
    "answer",
    [
        (400, {"error": {"message": f"bad key {KEY}"}}), (401, {"error": {"code": KEY, "message": {"x": KEY}}}),
        (500, {"detail": KEY}), (503, KEY.encode()), (307, {}, {"Location": f"http://x/{KEY}"}), KEY, f"{KEY} 80",
        said(None, KEY), said(f"\n{KEY}\n"), {"error": KEY}, {"choices": KEY}, KEY.encode(), b'{"' + KEY.encode(),
        said("80", prompt_tokens=KEY), (429, {"error": {"message": KEY}}, {"Retry-After": "9999"}),
        (400, {"error": {"message": "no", "code": "content_filter", "param": KEY}}),
        (400, json.dumps({"detail": KEY}).replace("sk-", "\\u0073k-").encode()),
    ],
    ids=range(17),
)  # fmt: skip
def test_the_key_is_in_nothing_that_is_said_or_written(answer: Any, tmp_path: Path, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve(lambda number, body: answer)
    done = judge(endpoint, data(tmp_path, 2), "--retries", "0", "--json", cwd=tmp_path)
    assert endpoint.keys[0] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


@pytest.mark.parametrize("key", ["sk-a\nX-Evil: 1", "sk-a\r\n b", "sk-schlüssel", "sk a", "sk-\0", "sk-\u200b"])
def test_a_key_that_cannot_be_one(key: str, tmp_path: Path, serve, monkeypatch):
    import os

    real = os.environ.get
    # No process can be given a NUL by its environment; any other way a key comes is the same to the judge.
    monkeypatch.setattr(os.environ, "get", lambda name, *a: key if name == "OPENAI_API_KEY" else real(name, *a))
    endpoint = serve()
    done = judge(endpoint, data(tmp_path, 1), cwd=tmp_path)
    assert (done.returncode, endpoint.bodies) == (2, [])
    assert done.stderr == (
        "geofilter: error: OPENAI_API_KEY: holds a blank, a line break or a letter that no key has; set it to the key "
        "alone\n"
    )


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}\n/v1", "http://127.0.0.1:{}/v\t1", "http://127.0.0.1:{}/\x00", "http://127.0.0.1:{}/\x1b[2J",
            "http://127.0.0.1:{}/a b", "http://127.0.0.1:{}\\@x", "http://127.0.0.1:{}/\u202e", "http://a..b:{}/v1"],
)  # fmt: skip
def test_an_address_with_what_no_address_has(url: str, tmp_path: Path, serve):
    endpoint = serve()
    url = url.format(endpoint.server.server_port)
    done = geofilter("judge", data(tmp_path, 1), "--judge-model", "m", "--base-url", url, "--retries", "0")
    assert endpoint.bodies == []
    assert done.returncode in (2, 3)
    assert done.stderr.splitlines()[-1].startswith("geofilter: error: ")
    assert not any(c in done.stderr for c in "\x00\x1b\u202e\t")
    assert "Traceback" not in done.stderr


def test_an_interrupt_says_nothing_else(tmp_path: Path, serve):
    asked = threading.Event()
    endpoint = serve(lambda number, body: [asked.set(), "HANG"][1])
    process = run_until(endpoint, asked, signal.SIGINT, data(tmp_path, 3))
    said_last = process.communicate(timeout=120)[1].splitlines()[2:]
    assert said_last == ["geofilter: interrupted; the same command goes on where it stopped"]
    assert lines(tmp_path / "d.judge.jsonl.part") == []


def test_a_judge_that_labels_nothing_is_an_error(tmp_path: Path, serve):
    rows = [row for row in read_rows(data(tmp_path, 4)) if isinstance(row, Row)]
    endpoint = serve(lambda number, body: "no idea")
    labels: dict[int, bool | None] = {}
    with pytest.raises(TargetError, match="none of 4 answers by m could be used"):
        by_judge(Judge("m", endpoint.url), 1000, 50)(rows, labels.__setitem__)
    assert labels == dict.fromkeys(range(4))
    # One that can be used is enough.
    endpoint.script = lambda number, body: "20" if row_of(body) == 3 else "no idea"
    by_judge(Judge("m", endpoint.url), 1000, 50)(rows, labels.__setitem__)
    assert labels == {0: None, 1: None, 2: None, 3: True}
