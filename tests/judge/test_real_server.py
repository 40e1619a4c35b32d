"""A judge behind a real server of a real model."""

import json
from pathlib import Path

import pytest
from helpers.command import geofilter
from helpers.judging import data, lines

from geofilter.judge.client import Judge
from geofilter.judge.rating import parse_rating


@pytest.mark.embedded
def test_a_real_server_judges(tmp_path: Path, real_server, long: bool):
    url, model = real_server
    n = 2 if long else 1
    path = data(tmp_path, n)
    args = ("judge", path, "--base-url", url, "--concurrency", "1", "--timeout", "300")
    done = geofilter(*args, "--judge-model", model, "--json")
    out = lines(tmp_path / "d.judge.jsonl")
    assert [line["line"] for line in out] == list(range(1, n + 1))
    # So small a model answers a long prompt with anything; every answer is there and is rated by the rules.
    for line in out:
        assert line["reply"]
        assert line["alignment"] == parse_rating(line["reply"]) or line["error"]
    result = json.loads(done.stdout)
    assert result["rated"] + result["unusable"] == n
    assert done.returncode == (0 if result["rated"] else 3), done.stderr
    assert n <= result["requests"] <= 2 * n
    assert result["tokens_in"] > n * 300
    assert result["tokens_out"] > 0
    again = geofilter(*args, "--judge-model", model, "--json")
    assert json.loads(again.stdout)["requests"] == 0
    # A question it can answer with a number.
    asked = Judge(model, url, timeout=300).rate("How many days are there in a week? Answer with one number.")
    assert asked.value == 7, asked
    # This server holds one model; another is refused in its own words.
    done = geofilter(*args, "--judge-model", "someone/else")
    assert done.returncode == 3
    assert "Server is pinned to" in done.stderr
