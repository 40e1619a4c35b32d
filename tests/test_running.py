"""How the tests themselves run: in several processes, on any machine."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers.processes import hear_interrupts, plain_environment
from helpers.workers import dealt, shared


def test_what_is_started_can_be_interrupted_where_the_tests_cannot():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        hear_interrupts()
        code = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        os.kill(os.getpid(), signal.SIGINT)  # still ignored here
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_what_a_machine_sets_of_its_own_is_left_out(monkeypatch):
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "OPENAI_API_KEY", "GITHUB_ACTIONS", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.setenv(name, "1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "mirror")
    plain_environment()
    left = {"HF_HOME", "HF_HUB_OFFLINE", "OPENAI_API_KEY", "GITHUB_ACTIONS", "FORCE_COLOR", "COLUMNS"} & set(os.environ)
    assert left == {"HF_HOME"}
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "127.0.0.1,localhost,mirror"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_a_worker_computes_with_one_thread():
    import torch
    from threadpoolctl import threadpool_info

    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_each_worker_starts_on_tests_of_the_embedded_model(workers: int):
    items = [SimpleNamespace(number=i, keywords={"embedded"} if i % 5 == 4 else {}) for i in range(50)]
    order = dealt(items, workers)
    assert sorted(item.number for item in order) == list(range(50))
    starts = [50 * worker // workers for worker in range(workers)]  # as `--dist worksteal` deals them
    assert all("embedded" in order[start].keywords for start in starts)
    ordinary = [item.number for item in order if not item.keywords]
    assert ordinary == sorted(ordinary)  # tests of a module stay together


def test_a_slow_test_is_the_first_of_all():
    keywords = {0: {"embedded"}, 1: {"embedded"}, 2: {"embedded"}, 7: {"slow"}}
    items = [SimpleNamespace(number=i, keywords=keywords.get(i, {})) for i in range(10)]
    assert [item.number for item in dealt(items, 2)] == [7, 1, 3, 4, 5, 0, 2, 6, 8, 9]


def test_what_workers_share_is_made_once_and_whole(tmp_path_factory: pytest.TempPathFactory):
    made = []

    def make(folder):
        made.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").touch()
        if len(made) == 1:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        shared(tmp_path_factory, "made-once", make)
    folders = {shared(tmp_path_factory, "made-once", make) for _ in range(3)}
    assert folders == set(made)
    assert len(made) == 2
