"""What is kept in the cache is checked, and a folder of the user's own cannot pass itself off as another."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from helpers.command import geofilter, quiet
from helpers.tiny import make_sae

from geofilter.config import TargetChoice
from geofilter.errors import TargetError
from geofilter.files import cache_dir
from geofilter.scanning.record import _about
from geofilter.target import kept
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import source_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def choice(tiny, tmp_path: Path, cache: Path) -> TargetChoice:
    """The tiny model with an SAE of a format that is read once and kept in the cache."""
    shutil.copytree(tiny[1], tmp_path / "old")
    cfg = json.loads((tmp_path / "old" / "cfg.json").read_text())
    (tmp_path / "old" / "cfg.json").write_text(json.dumps({**cfg, "rescale_acts_by_decoder_norm": True}))
    return TargetChoice(str(tiny[0]), str(tmp_path / "old"))


def test_a_user_s_source_json_vouches_for_nothing(tiny, tmp_path: Path, cache: Path):
    mine, other = make_sae(tmp_path / "mine", seed=1), make_sae(tmp_path / "other", seed=2)
    found = [resolve(TargetChoice(str(tiny[0]), str(sae)), notify=quiet) for sae in (mine, other)]
    files = [{"repo": "google/gemma-scope-2b-pt-res", "name": "params.npz", "commit": "a" * 40, "path": "x"}]
    claim = {"sae": "gemma-scope-2b-pt-res/x", "weights_sha256": "f" * 64, "files": files, "neuronpedia": "gemma/x"}
    for sae, before in zip((mine, other), found, strict=True):
        for text in (json.dumps(claim), json.dumps({**claim, "files": 3}), "[", "[]"):
            (sae / "source.json").write_text(text)
            again = resolve(TargetChoice(str(tiny[0]), str(sae)), notify=quiet)
            assert again == before
            assert _about(again)["sae_files"] == []
    assert found[0].fingerprint != found[1].fingerprint
    # Nor does one that a link puts into the cache.
    (cache / "saes").mkdir(parents=True)
    (cache / "saes" / "link").symlink_to(mine)
    (mine / "source.json").write_text(json.dumps(claim))
    linked = resolve(TargetChoice(str(tiny[0]), str(cache / "saes" / "link")), notify=quiet)
    assert linked.fingerprint == found[0].fingerprint


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
def test_a_kept_sae_that_was_changed_is_found_out(name: str, choice: TargetChoice):
    target = resolve(choice, notify=quiet)
    assert source_of(target.sae_dir)
    path = target.sae_dir / name
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nobody had touched it
    text = f"{path}: is not what geofilter has put there (another sha256); delete {target.sae_dir} and run the command"
    for _ in range(2):
        with pytest.raises(TargetError) as caught:
            resolve(choice, notify=quiet)
        assert str(caught.value).startswith(text)
    done = geofilter("doctor", "--model", choice.model, "--sae", choice.sae)
    assert done.returncode == 3
    assert text in done.stdout
    shutil.rmtree(target.sae_dir)
    assert resolve(choice, notify=quiet).fingerprint == target.fingerprint


def hashed(monkeypatch) -> list[str]:
    """Names of the files that `kept` hashes from now on."""
    seen: list[str] = []
    real = kept.file_sha256
    monkeypatch.setattr(kept, "file_sha256", lambda path: seen.append(path.name) or real(path))
    return seen


def test_it_is_hashed_once_a_day_and_by_doctor(choice: TargetChoice, cache: Path, monkeypatch):
    target = resolve(choice, notify=quiet)
    seen = hashed(monkeypatch)
    resolve(choice, notify=quiet)
    assert seen == []
    kept.check_target(target)
    assert sorted(seen) == ["cfg.json", "sae_weights.safetensors"]
    seen.clear()
    now = time.time()
    for moved in (kept.DAY + 1, -kept.DAY):  # also when the clock was put back
        monkeypatch.setattr(kept.time, "time", lambda moved=moved: now + moved)
        resolve(choice, notify=quiet)
        assert len(seen) == 2
        seen.clear()
        resolve(choice, notify=quiet)
        assert seen == []


@pytest.mark.parametrize("stamp", ["", "[", "[]", "{}", '{"time": "x", "files": []}', "[" * 100_000, None])
def test_a_stamp_of_no_use_is_none(stamp: str | None, choice: TargetChoice, cache: Path, monkeypatch):
    resolve(choice, notify=quiet)
    (place,) = (cache / "checked").iterdir()
    if stamp is None:  # a file where the folder should be
        shutil.rmtree(cache / "checked")
        (cache / "checked").write_text("")
    else:
        place.write_text(stamp)
    seen = hashed(monkeypatch)
    resolve(choice, notify=quiet)
    assert len(seen) == 2


@pytest.mark.embedded
def test_the_embedded_model_is_checked_too(tmp_path: Path, monkeypatch):
    target = resolve(TargetChoice("smollm2-135m"), notify=quiet)
    folder = tmp_path / "cache" / "models" / target.model_dir.name
    folder.mkdir(parents=True)
    for path in target.model_dir.iterdir():
        (folder / path.name).symlink_to(path)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    assert resolve(TargetChoice("smollm2-135m"), offline=True, notify=quiet).fingerprint == target.fingerprint
    (folder / "config.json").unlink()
    (folder / "config.json").write_text((target.model_dir / "config.json").read_text() + " ")
    with pytest.raises(TargetError, match=r"config\.json: is not what geofilter has put there"):
        resolve(TargetChoice("smollm2-135m"), offline=True, notify=quiet)
