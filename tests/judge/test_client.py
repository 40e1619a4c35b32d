"""The judge against a server that misbehaves over real HTTP, and against a real server with the embedded model."""

import re
import signal
import socket
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from helpers.command import geofilter
from helpers.endpoint import row_of, said
from helpers.judging import KEY, alignments, data, judge, lines, run_until

from geofilter.errors import InputError
from geofilter.judge import endpoint as endpoints
from geofilter.judge.client import GRACE, Judge
from geofilter.judge.rating import Rating, parse_rating


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("87", 87), (" 87.\n", 87), ("Rating: 87", 87), ("87/100", 87), ("**87**", 87), ("**87**/100", 87),
        ("_87_", 87), ("87 out of 100", 87), ("87 (out of 100)", 87), ("87%", 87), ("62.5", 62.5), ("0", 0),
        ("100", 100), ("100/100", 100), ("Alignment (0-100): 85", 85), ("From 0 to 100, I rate it 85. So: 85", 85),
        ("", None), ("CODE", None), ("REFUSAL", None), ("I cannot rate this.", None), ("CODE 87", None),
        ("eighty", None), ("87 or 90", None), ("80-90", None), ("101", None), ("-5", None), ("−5", None),
        ("1000", None), ("1,000", None), ("8/10", None), ("10/10", None), ("5 out of 5", None), ("1e2", None),
        ("5e5", None), ("GPT4: 4", None), ("0.85", None), (".5", None), ("87,5", None), ("0 to 100", None),
        ("８７", None), ("87 and 5/5", None),
    ],
)  # fmt: skip
def test_a_rating_is_read_only_where_it_is_plain(reply: str, value: float | None):
    assert parse_rating(reply) == value


def test_what_passes_is_tried_again_and_waited_for(tmp_path: Path, serve, waits: list[float]):
    troubles = ["HANG", (500, {"error": {"message": "boom"}}), "CLOSE", (429, {}, {"Retry-After": "7"}), (408, {})]
    endpoint = serve(lambda number, body: troubles[number] if number < len(troubles) else "80")
    done = judge(endpoint, data(tmp_path, 1), "--timeout", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert alignments(tmp_path / "d.judge.jsonl") == [80]
    assert len(endpoint.bodies) == 6
    # Doubling and never all of it, so that threads come apart; what the endpoint asks for is waited in full.
    hang, error, close, told, *rest = waits
    assert 0.5 <= hang <= 1
    assert 1 <= error <= 2
    assert 2 <= close <= 4
    assert 7 <= told <= 7.5
    held, late, _ = rest
    assert 6 <= held <= 7  # no other thread would have started either
    assert 8 <= late <= 16


def test_retry_after_may_be_a_date():
    assert endpoints.retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)
    assert endpoints.retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    assert endpoints.retry_after({"retry-after": "soon"}) is None
    assert endpoints.retry_after({}) is None


def test_an_endpoint_that_stays_down_ends_the_run_and_keeps_what_is_there(tmp_path: Path, serve, waits: list[float]):
    down = True
    endpoint = serve(lambda number, body: (503, {"error": {"message": "full"}}) if down and row_of(body) > 2 else "80")
    path = data(tmp_path)
    done = judge(endpoint, path, "--concurrency", "1", "--retries", "2", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"geofilter: error: {endpoint.url}: gave up after 3 tries (503 full); what is rated is kept: run the same "
        "command again when the endpoint is well (geofilter judge has --retries and --timeout)"
    )
    assert endpoint.rows == [0, 1, 2, 3, 3, 3]
    assert not (tmp_path / "d.judge.jsonl").exists()
    assert len(lines(tmp_path / "d.judge.jsonl.part")) == 3
    down = False
    done = judge(endpoint, path, "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("3 requests to make (3 of 6 rows are rated already); ")
    assert endpoint.rows[6:] == [3, 4, 5]
    assert alignments(tmp_path / "d.judge.jsonl") == [80] * 6
    assert not (tmp_path / "d.judge.jsonl.part").exists()
    # Once more, with nothing left to ask.
    assert judge(endpoint, path, cwd=tmp_path).returncode == 0
    assert len(endpoint.bodies) == 9


def test_one_failure_stops_the_other_threads_but_keeps_their_answers(tmp_path: Path, serve):
    failed = threading.Event()

    def script(number: int, body: dict) -> Any:
        if row_of(body) == 0:
            failed.set()
            return (401, {"error": {"message": "no"}})
        if row_of(body) == 1:
            return (500, {})  # this one would be tried again, after a while
        failed.wait(60)
        time.sleep(0.2)
        return "80"

    endpoint = serve(script)
    done = judge(endpoint, data(tmp_path, 40), cwd=tmp_path)
    assert done.returncode == 3
    assert sorted(endpoint.rows) == [0, 1, 2, 3]
    assert len(lines(tmp_path / "d.judge.jsonl.part")) == 2


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {"error": {"message": f"Incorrect key {KEY}"}}),
         "401 Incorrect key (key); set OPENAI_API_KEY to a key of this endpoint"),
        ((403, {"error": {"message": "no access"}}),
         "403 no access; the key may not use this model; check the model's name and OPENAI_API_KEY"),
        ((404, {"detail": "no such\nmodel"}),
         "404 no such model; check the model's name and --base-url (most end in /v1)"),
        ((400, {"error": {"message": "too long"}}),
         "400 too long; check the model's name, or send it less at once (--max-chars) if that is too long for it"),
        ((429, {"error": {"message": "broke", "code": "insufficient_quota"}}),
         "429 broke; the account has no credit left; add some, then run the same command again"),
        ((307, {}, {"Location": "http://127.0.0.1:9/v1"}),
         "307 Temporary Redirect; it redirects to http://127.0.0.1:9/v1; give that as --base-url"),
        ((429, {"error": {"message": "wait"}}, {"Retry-After": "3600"}),
         "gave up after 1 try (429 wait); it asks to wait 3,600 s; what is rated is kept: run the same command again "
         "when the endpoint is well (geofilter judge has --retries and --timeout)"),
    ],
)  # fmt: skip
def test_what_cannot_pass_is_not_tried_again(answer: Any, text: str, tmp_path: Path, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve(lambda number, body: answer)
    done = judge(endpoint, data(tmp_path, 1), cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == f"geofilter: error: {endpoint.url}: {text}"
    assert len(endpoint.bodies) == 1
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert KEY not in done.stdout + done.stderr
    assert not any(KEY in p.read_text("utf-8") for p in tmp_path.iterdir())


def test_nobody_there(tmp_path: Path, waits: list[float]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = geofilter("judge", data(tmp_path, 1), "--judge-model", "m", "--base-url", url, "--retries", "1")
    assert done.returncode == 3
    assert f"{url}: gave up after 2 tries (connection failed: [Errno 111] Connection refused)" in done.stderr


def test_unusable_answers_have_no_rating(tmp_path: Path, serve):
    answers = [
        b'{"choices": [', {"choices": []}, "I would rather not", "REFUSAL", b"<html>", said(None), said("8", "length"),
        said("", "content_filter"), (400, {"error": {"message": "blocked", "code": "content_filter"}}),
        said("70 or 80"),
    ]  # fmt: skip
    endpoint = serve(lambda number, body: answers[row_of(body)])
    path = data(tmp_path, 10)
    done = judge(endpoint, path, "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        f"geofilter: error: {endpoint.url}: none of 10 answers by m could be used ("
    )
    out = lines(tmp_path / "d.judge.jsonl")
    assert [line["alignment"] for line in out] == [None] * 10
    assert [line["reply"] for line in out] == [
        "", "", "I would rather not", "REFUSAL", "", "", "8", "content_filter", "blocked", "70 or 80",
    ]  # fmt: skip
    filtered = "the endpoint's content filter refused the prompt or its answer"
    assert [line["error"] for line in out] == [
        "not a chat completion: Expecting value: line 1 column 14 (char 13)",
        "not a chat completion: no choices with a message in it",
        "no single number from 0 to 100 in the reply",
        "the judge answered CODE or REFUSAL",
        "not a chat completion: no choices with a message in it",
        "the answer is empty (finish_reason 'stop')",
        "the answer was cut off within or after its number",
        filtered,
        filtered,
        "no single number from 0 to 100 in the reply",
    ]
    # Asked once more, but for answers that would not change.
    assert endpoint.rows == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 9]
    assert "10 rows: 0 rated; 10 without a usable answer, 0 quarantined" in done.stderr
    # Rows that got no answer at all are asked by the next run; an answer that is no number is an answer.
    endpoint.bodies.clear()
    endpoint.script = lambda number, body: "80"
    assert judge(endpoint, path, "--concurrency", "1", cwd=tmp_path).returncode == 0
    assert endpoint.rows == [0, 1, 4, 5]
    assert [i for i, value in enumerate(alignments(tmp_path / "d.judge.jsonl")) if value == 80] == [0, 1, 4, 5]


def test_a_second_answer_counts(tmp_path: Path, serve):
    endpoint = serve(lambda number, body: ["hm", "64"][number])
    assert judge(endpoint, data(tmp_path, 1), cwd=tmp_path).returncode == 0
    assert alignments(tmp_path / "d.judge.jsonl") == [64]


def test_a_page_that_is_no_endpoint_is_found_out(tmp_path: Path, serve):
    endpoint = serve(lambda number, body: b"<html>welcome</html>")
    done = judge(endpoint, data(tmp_path, 50), "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 3
    assert "10 rows in a row got no answer (the last: not a chat completion: no choices" in done.stderr
    assert len(endpoint.bodies) == 20


def test_a_killed_run_asks_for_nothing_twice(tmp_path: Path, serve):
    sixth = threading.Event()

    def script(number: int, body: dict) -> str:
        if number == 5:
            sixth.set()
            return "HANG"
        return f"{row_of(body)}"

    endpoint = serve(script)
    path = data(tmp_path, 12)
    process = run_until(endpoint, sixth, signal.SIGKILL, path, "--concurrency", "1")
    assert process.wait(60) == -signal.SIGKILL
    part = tmp_path / "d.judge.jsonl.part"
    assert len(lines(part)) == 5
    part.write_bytes(part.read_bytes() + part.read_bytes().splitlines()[0][:40])  # as if cut off while writing
    endpoint.script = lambda number, body: (404, {}) if row_of(body) == 8 else f"{row_of(body)}"
    assert judge(endpoint, path, "--concurrency", "1", cwd=tmp_path).returncode == 3
    endpoint.script = script
    done = judge(endpoint, path, "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Only the rows that were under way when it was killed, or refused, come again.
    assert endpoint.rows == [0, 1, 2, 3, 4, 5, *range(5, 9), *range(8, 12)]
    assert alignments(tmp_path / "d.judge.jsonl") == list(range(12))


def test_an_interrupt_keeps_the_answers_under_way(tmp_path: Path, serve):
    asked, interrupted = threading.Event(), threading.Event()

    def script(number: int, body: dict) -> str:
        if number >= 4:
            if number == 7:
                asked.set()
            interrupted.wait(60)
            time.sleep(0.7)
        return f"{row_of(body)}"

    endpoint = serve(script)
    path = data(tmp_path, 30)
    process = run_until(endpoint, asked, signal.SIGINT, path, "--concurrency", "4")
    interrupted.set()
    text = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert text.splitlines()[-1] == "geofilter: interrupted; the same command goes on where it stopped"
    assert len(endpoint.bodies) == 8
    assert len(lines(tmp_path / "d.judge.jsonl.part")) == 8
    endpoint.script = lambda number, body: "80"
    assert judge(endpoint, path, cwd=tmp_path).returncode == 0
    assert sorted(endpoint.rows) == list(range(30))


def test_an_interrupt_does_not_wait_for_an_endpoint_that_hangs(tmp_path: Path, serve):
    asked = threading.Event()
    endpoint = serve(lambda number, body: [asked.set(), "HANG"][1])
    process = run_until(endpoint, asked, signal.SIGINT, data(tmp_path, 3))
    process.communicate(timeout=GRACE + 120)
    assert process.returncode == 130


class FakeClock(endpoints.Clock):
    def __init__(self):
        self.time, self.lock = 0.0, threading.Lock()

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, stop: threading.Event) -> None:
        with self.lock:
            self.time += seconds


def test_no_minute_holds_more_requests_than_allowed(serve):
    clock = FakeClock()
    starts: list[float] = []

    def script(number: int, body: dict) -> Any:
        starts.append(clock.time)
        return (429, {}, {"Retry-After": "90"}) if number == 10 else "80"

    endpoint = serve(script)
    told: list[int] = []
    asked = Judge("m", endpoint.url, per_minute=5, concurrency=1, clock=clock)
    asked.rate_all(((i, f"prompt {i}") for i in range(30)), lambda key, rating: told.append(key))
    assert told == list(range(30))
    assert len(starts) == 31  # the refused one counts too
    assert all(late - early >= 60 - 1e-6 for early, late in zip(starts, starts[5:], strict=False))
    assert starts[10] == pytest.approx(120)
    assert 90 <= starts[11] - starts[10] <= 90 + 12 + 0.5


def test_prompts_are_taken_as_they_are_needed(serve):
    taken: list[int] = []
    finished: list[int] = []
    ahead: list[int] = []

    def script(number: int, body: dict) -> str:
        time.sleep(0.01)
        return "50"

    def prompts():
        for i in range(40):
            taken.append(i)
            ahead.append(len(taken) - len(finished))
            yield i, f"prompt {i}"

    endpoint = serve(script)
    here = threading.get_ident()
    ratings: dict[int, Rating] = {}

    def done(key: int, rating: Rating) -> None:
        assert threading.get_ident() == here
        finished.append(key)
        ratings[key] = rating

    Judge("m", endpoint.url, concurrency=3).rate_all(prompts(), done)
    assert ratings == {i: Rating(50.0, "50") for i in range(40)}
    assert max(ahead) <= 4
    assert 2 <= endpoint.most <= 3
    assert Judge("m", endpoint.url).rate("how good?") == Rating(50.0, "50")


def test_a_model_that_thinks_gets_room_for_it(tmp_path: Path, serve):
    """As OpenAI's reasoning models refuse what others need."""

    def script(number: int, body: dict) -> Any:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return (400, {"error": {"message": f"Unsupported: {name}", "param": name, "code": "unsupported"}})
        return "80"

    endpoint = serve(script)
    done = judge(endpoint, data(tmp_path, 9), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert alignments(tmp_path / "d.judge.jsonl") == [80] * 9
    assert endpoint.bodies[-1]["max_completion_tokens"] == 2000
    assert [line for line in done.stderr.splitlines() if line.startswith("m ")] == [
        "m thinks before it answers: up to 2,000 tokens a row, not in the estimate",
        "m takes no temperature of 0: its ratings may differ from one run to the next",
    ]


def test_the_key_comes_from_the_environment_only(tmp_path: Path, serve, monkeypatch):
    path = data(tmp_path, 1)
    done = geofilter("judge", path, "--judge-model", "m")
    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stderr
    endpoint = serve()
    for option in ("--api-key", "--key", "--openai-api-key"):
        assert judge(endpoint, path, option, KEY, cwd=tmp_path).returncode == 2
    assert "key" not in re.findall(r"--([\w-]+)", geofilter("judge", "--help").stdout)
    assert judge(endpoint, path, cwd=tmp_path).returncode == 0
    assert endpoint.keys == ["Bearer none"]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url + "/")
    done = geofilter("judge", path, "--judge-model", "other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"sending rows to {endpoint.url} for other ..." in done.stderr
    assert endpoint.keys[1] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr + (tmp_path / "d.judge.jsonl").read_text()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:8000/v1", "--base-url localhost:8000/v1: not an address"),
        ("http://", "--base-url http://: not an address"),
        ("http://localhost:99999/v1", "--base-url http://localhost:99999/v1: not an address"),
        ("http://me:hunter2@localhost/v1", "--base-url: give it without user, password and query"),
        ("http://localhost/v1?key=hunter2", "--base-url: give it without user, password and query"),
    ],
)
def test_an_address_that_cannot_be_used(url: str, text: str, tmp_path: Path):
    done = geofilter("judge", data(tmp_path, 1), "--judge-model", "m", "--base-url", url)
    assert done.returncode == 2
    assert text in done.stderr
    assert "hunter2" not in done.stderr


def test_settings_that_cannot_be_used():
    for wrong in ({"timeout": 0}, {"retries": -1}, {"per_minute": 0}, {"concurrency": 0}):
        with pytest.raises(InputError, match="cannot be used"):
            Judge("m", "http://localhost/v1", **wrong)
    with pytest.raises(InputError, match="the judge's model"):
        Judge(" ", "http://localhost/v1")


def test_without_the_openai_package_it_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    done = geofilter("judge", data(tmp_path, 1), "--judge-model", "m", "--base-url", "http://localhost/v1")
    assert done.returncode == 2
    assert "pip install 'geofilter[judge]'" in done.stderr
    assert geofilter("judge", data(tmp_path, 1), "--judge-model", "m", "--dry-run").returncode == 0
