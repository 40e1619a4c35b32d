"""What a scan is reckoned to need, and --max-memory."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.command import geofilter, quiet, scan_one

from geofilter.config import Loading, TargetChoice, typed
from geofilter.encode.need import _resident, fitting, memory_needed
from geofilter.encode.pair import explained_variance
from geofilter.encode.reader import FeatureReader
from geofilter.errors import InputError, TargetError
from geofilter.target.resolve import resolve
from geofilter.target.size import LEAST_TOKENS, Dimensions, usual, working, working_on_cpu
from geofilter.text import size

BIG = Dimensions(256, 4096, 256, 9216, 8, 64, 4, 4, 128, 0)


@pytest.mark.parametrize(
    ("text", "n"),
    [("12GB", 12 * 10**9), ("800MB", 8 * 10**8), ("1.5 gb", 15 * 10**8), ("16GiB", 16 << 30), ("2g", 2 * 10**9),
     ("64k", 64_000), ("12", None), ("GB", None), ("-1GB", None), ("0GB", None), ("1e3GB", None), ("", None)],
)  # fmt: skip
def test_sizes_as_they_are_typed(text: str, n: int | None):
    assert size(text) == n
    if n is None:
        with pytest.raises(InputError, match="not a size; write 12GB or 800MB for instance"):
            Loading(max_memory=text)
    else:
        loading = Loading(max_memory=text)
        assert loading.most_bytes == n
        assert typed(loading) == ["--max-memory", text]


def test_less_at_once_needs_less_down_to_one_window():
    at_once, found = usual(2048, 4096), []
    assert (at_once.tokens, at_once.chunk) == (2048, 2048)
    assert usual(2048, 1 << 26).chunk == 1
    while at_once is not None:
        last = at_once
        found.append((working_on_cpu(BIG, at_once, 256), working(256, 4096, 8, at_once, 256)))
        at_once = at_once.halved()
    assert last.tokens == LEAST_TOKENS
    for kind in zip(*found, strict=True):
        assert list(kind) == sorted(kind, reverse=True)
        assert kind[0] > kind[2] >= kind[-1]
    # A pass holds one window at the least.
    assert working_on_cpu(BIG, last, 1024) > working_on_cpu(BIG, last, 256)
    # Half the precision is half a pass.
    most = usual(2048, 4096)
    assert working_on_cpu(replace(BIG, item=2), most, 1024) < working_on_cpu(BIG, most, 1024)


@pytest.fixture(autouse=True)
def asked_anew():
    """What the process holds is asked for once: tests before may have held a lot at that moment."""
    _resident.cache_clear()


@pytest.fixture
def target(tiny):
    return resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)


def needed(target, loading: Loading, at_once=None):
    return memory_needed(target.model_dir, target.layer, 32, 128, loading, 1024, at_once, target.sae_dir)


def held() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_on_the_cpu_the_whole_process_is_reckoned(target):
    need, half = needed(target, Loading("cpu")), needed(target, Loading("cpu", "bfloat16"))
    assert 100e6 < need.libraries < held() + 200e6
    assert need.total == need.libraries + need.model + need.encoder + need.working
    assert half.model * 2 == need.model
    assert half.encoder == need.encoder == 32 * 128 * 4


def test_passes_are_as_large_as_the_limit_lets_them(target):
    whole = needed(target, Loading("cpu"))
    loading = Loading("cpu", max_memory=f"{whole.total // 1000 + 1}KB")
    assert fitting(target, loading) == fitting(target, Loading("cpu")) == usual(2048, 128)
    at_once = fitting(target, Loading("cpu", max_memory=f"{whole.total // 1000 - 1}KB"))
    assert at_once.tokens < 2048
    reader = FeatureReader(target, Loading("cpu", max_memory=f"{whole.total // 1000 - 1}KB"))
    assert (reader._budget, reader.encoder.chunk) == (at_once.tokens, at_once.chunk)


def test_a_limit_that_nothing_fits_is_an_error_before_anything_is_loaded(tiny, target, monkeypatch):
    monkeypatch.setattr("geofilter.encode.model.pretrained", lambda *_a, **_k: pytest.fail("loaded"))
    for start in (FeatureReader, explained_variance):
        with pytest.raises(TargetError) as caught:
            start(target, Loading("cpu", max_memory="20MB"))
        assert str(caught.value).startswith("--max-memory 20MB: too little even for the smallest passes, which need")
        assert "GB: model 0.00 (4 layers in float32), encoder 0.00 (float32), working memory 0." in str(caught.value)
        said = re.search(r"interpreter and libraries (\d\.\d\d);", str(caught.value))
        assert said
        assert 0.1 < float(said[1]) < held() / 1e9 + 0.2
        assert str(caught.value).endswith("a smaller --max-tokens or a lower --layer")


def test_a_scan_and_doctor_say_when_the_limit_is_too_low(tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    args = ("--model", tiny[0], "--sae", tiny[1])
    code, text = scan_one(tmp_path, *args, "--max-memory", "20MB")
    assert code == 3
    assert text.startswith("--max-memory 20MB: too little even for the smallest passes")
    done = geofilter("doctor", *args, "--max-memory", "20MB")
    assert done.returncode == 3
    assert "FAIL memory: --max-memory 20MB: too little" in done.stdout


def test_the_check_of_a_pair_goes_on_in_smaller_passes(target, monkeypatch):
    whole, tried = explained_variance(target, Loading("cpu")), []
    from geofilter.encode.model import ResidualModel

    real = ResidualModel.responses

    def responses(self, read):
        if read.input_ids.numel() > 300:
            tried.append(read.input_ids.numel())
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, read)

    monkeypatch.setattr(ResidualModel, "responses", responses)
    found = explained_variance(target, Loading("cpu"))
    assert tried
    for layer, figures in whole.items():
        assert found[layer]["explained_variance"] == pytest.approx(figures["explained_variance"], abs=1e-4)
