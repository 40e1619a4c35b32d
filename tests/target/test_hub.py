"""Files of the hub: which are fetched, and what is said when they are missing, gated or damaged."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.command import geofilter, quiet, scan_one, use_hub
from helpers.families import CASES, Hub, fitted, put_gemma_scope, put_native
from huggingface_hub import constants
from safetensors.torch import save_file

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel
from geofilter.errors import TargetError
from geofilter.files import made_once
from geofilter.target.decoder import is_wanted
from geofilter.target.hub import SMALL_FILES
from geofilter.target.releases import published
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import read_cfg


def test_only_the_weight_files_needed_are_used(hub):
    for name in ("gemma-2-2b", "llama-3.1-8b", "gpt-oss-20b"):
        case = CASES[name]
        target = resolve(TargetChoice(name), offline=True, notify=quiet)
        index = json.loads((hub.snapshot(case.repo) / "model.safetensors.index.json").read_text())["weight_map"]
        shards = {path.name for path in target.model_dir.glob("*.safetensors")}
        assert shards < set(index.values())
        kept = json.loads((target.model_dir / "model.safetensors.index.json").read_text())["weight_map"]
        layers = {int(k.split(".")[2]) for k in kept if ".layers." in k}
        assert layers == set(range(target.layer + 2))  # the hook's layer, and one more for the check of the pair
        # A cleared Hugging Face cache leaves links to nothing; then they are made anew.
        link = next(iter(target.model_dir.glob("*.safetensors")))
        link.unlink()
        assert resolve(TargetChoice(name), offline=True, notify=quiet).model_dir == target.model_dir
        assert link.is_file()


@pytest.mark.parametrize(
    ("key", "wanted"),
    [("model.embed_tokens.weight", True), ("model.norm.weight", True), ("lm_head.weight", False),
     ("model.layers.0.mlp.x", True), ("model.layers.4.mlp.x", True), ("model.layers.5.mlp.x", False),
     ("model.layers.15.mlp.x", False), ("transformer.h.4.ln", True), ("h.5.ln", False)],
)  # fmt: skip
def test_wanted_tensors_where_no_embedding_tells_the_decoder(key: str, wanted: bool):
    assert is_wanted(key, 5, None) is wanted


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    model = (
        f"google/gemma-2-2b: config.json is not in the cache {hub.root} and the hub may not be used; "
        f"get it where there is a network: hf download google/gemma-2-2b {SMALL_FILES}"
    )
    sae = (
        "google/gemma-scope-2b-pt-res: layer_12/width_16k/average_l0_82/params.npz is not in the cache "
        f"{hub.root} and the hub may not be used; get it where there is a network: "
        "hf download google/gemma-scope-2b-pt-res --include 'layer_12/width_16k/average_l0_82/*'"
    )
    assert scan_one(tmp_path, "--model", "gemma-2-2b") == (3, model)
    done = geofilter("doctor", "--model", "gemma-2-2b")
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if line.startswith("FAIL")] == [
        f"FAIL files: {model}",
        f"FAIL files: {sae}",
    ]
    folder = hub.model("google/gemma-2-2b", "gemma2", 26, False)
    put_gemma_scope(hub, "gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical", fitted(folder, 12))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    gone = sorted({index["model.layers.3.mlp.up_proj.weight"], index["model.layers.13.mlp.up_proj.weight"]})
    for name in gone:
        (folder / name).unlink()
    assert scan_one(tmp_path, "--model", "gemma-2-2b", "--offline") == (
        3,
        f"google/gemma-2-2b: {', '.join(gone)} not in the cache {hub.root} and the hub may not be used; get them where "
        f"there is a network: hf download google/gemma-2-2b {' '.join(gone)} --revision {folder.name}",
    )
    assert scan_one(tmp_path, "--model", "gemma-2-2b", "--revision", "v2", "--offline") == (
        3,
        f"google/gemma-2-2b: config.json is not in the cache {hub.root} and the hub may not be used; "
        f"get it where there is a network: hf download google/gemma-2-2b {SMALL_FILES} --revision v2",
    )


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the hub does for gated, absent and broken repositories."""

    def do_HEAD(self):
        code, error = {
            "google": (403, "GatedRepo"),
            "absent": (404, "RepoNotFound"),
            "old": (404, "RevisionNotFound"),
        }.get(self.path.split("/")[1], (500, ""))
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


def serve(handler: type[BaseHTTPRequestHandler], monkeypatch) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    return server


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch):
    server = serve(FakeHub, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()


class Mirror(BaseHTTPRequestHandler):
    """Serves a cache folder as the hub serves its repositories: files by name, their commit and ETag in the headers."""

    root: Path
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        org, name, _, _, file = self.path.lstrip("/").split("/", 4)
        snapshot = Hub(self.root).snapshot(f"{org}/{name}")
        self.asked.append((self.command, f"{org}/{name}/{file}"))
        found = (snapshot / file).is_file()
        data = (snapshot / file).read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", snapshot.name)
        self.send_header("Content-Length", str(len(data)))
        if found:
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_a_first_scan_fetches_what_it_needs_and_a_second_asks_once(tmp_path: Path, filled_hub, monkeypatch):
    """Online, over HTTP: from an empty cache to a resolved target, and what was asked for on the way."""
    use_hub(filled_hub, monkeypatch)
    endpoint = serve(type("Mirrored", (Mirror,), {"root": filled_hub.root, "asked": (asked := [])}), monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    target = resolve(TargetChoice("gemma-2-2b"), notify=told.append)
    assert target.revision == filled_hub.snapshot("google/gemma-2-2b").name
    index = json.loads((filled_hub.snapshot("google/gemma-2-2b") / "model.safetensors.index.json").read_text())
    needed = {file for key, file in index["weight_map"].items() if is_wanted(key, 14, "model.")}
    assert {name for verb, name in asked if verb == "GET" and name.endswith(".safetensors")} == {
        f"google/gemma-2-2b/{file}" for file in needed
    }
    everything = len(set(index["weight_map"].values()))
    assert told == [
        "reading the SAE gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical with sae-lens, once ...",
        f"fetching google/gemma-2-2b: {len(needed)} of {everything} weight files hold the layers up to the hook",
    ]
    ResidualModel(target.model_dir, [target.layer + 1], Loading("cpu"))
    asked.clear()
    assert resolve(TargetChoice("gemma-2-2b"), notify=told.append).fingerprint == target.fingerprint
    assert asked == [("HEAD", "google/gemma-2-2b/config.json")]  # has main moved?
    endpoint.shutdown()
    endpoint.server_close()
    assert resolve(TargetChoice("gemma-2-2b"), offline=True, notify=told.append).fingerprint == target.fingerprint
    assert len(told) == 2


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = hub.model("org/gemma-2-2b", "gemma2", 14, chat=True)
    put_native(tmp_path / "sae", fitted(folder, 12), "blocks.12.hook_resid_post", "google/gemma-2-2b")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for elsewhere in ("../../../x.safetensors", "/etc/passwd", "pytorch_model.bin"):
        index["weight_map"]["model.norm.weight"] = elsewhere
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(TargetError, match="it names no weight files, or some outside of the repository"):
            resolve(TargetChoice("org/gemma-2-2b", str(tmp_path / "sae")), offline=True, notify=quiet)


def test_gated_and_absent_repositories(tmp_path: Path, fake_hub, tiny):
    assert scan_one(tmp_path, "--model", "gemma-2-2b") == (
        3,
        "google/gemma-2-2b: gated; accept its licence at https://huggingface.co/google/gemma-2-2b, "
        "then run: hf auth login",
    )
    assert scan_one(tmp_path, "--model", "absent/model", "--sae", tiny[1]) == (
        3,
        "absent/model: no such repository, or a private one; check the name, or run: hf auth login",
    )
    assert scan_one(tmp_path, "--model", "old/model", "--sae", tiny[1], "--revision", "v9") == (
        3,
        "old/model: has no revision v9; give a branch, tag or commit of it",
    )


def test_a_hub_that_does_not_answer(tmp_path: Path, fake_hub, tiny, monkeypatch):
    fake_hub.shutdown()
    fake_hub.server_close()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its five tries
    code, text = scan_one(tmp_path, "--model", "google/gemma-2-2b", "--sae", tiny[1])
    assert code == 3
    assert text == (
        f"google/gemma-2-2b: config.json is not in the cache {tmp_path / 'hub'} and the hub does not answer; "
        f"get it where there is a network: hf download google/gemma-2-2b {SMALL_FILES}"
    )


def test_a_hub_that_stops_answering_half_way(tmp_path: Path, fake_hub, tiny, monkeypatch):
    """A file that cannot be asked for is not taken for one that is not there, unless --offline says so."""
    folder = Hub(tmp_path / "hub").model("old/model", "llama", 4, chat=False)
    choice = TargetChoice("old/model", str(tiny[1]), revision=folder.name, allow_other_model=True)
    fake_hub.shutdown()
    fake_hub.server_close()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(TargetError) as caught:
        resolve(choice, notify=quiet)
    assert str(caught.value) == (
        "old/model: the hub does not answer, so whether there is a special_tokens_map.json cannot be known; try again, "
        "or take what is in the cache for all there is with --offline"
    )
    assert resolve(choice, offline=True, notify=quiet).revision == folder.name


def test_two_processes_make_a_view_once(hub, tmp_path: Path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    choice = TargetChoice("llama-3.1-8b")
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda _: resolve(choice, offline=True, notify=quiet), range(4)))
    assert len({t.model_dir for t in targets}) == len({t.fingerprint for t in targets}) == 1
    assert not list((tmp_path / "cache").rglob("tmp*"))


def test_a_complete_cache_is_only_read(tmp_path: Path, monkeypatch):
    """A cache filled once for many machines may be mounted read-only: no lock, no folder, no rename."""
    from filelock import FileLock

    folder = tmp_path / "x"
    made_once(folder, lambda path: (path / "done").is_file(), lambda path: (path / "done").touch(), quiet)
    monkeypatch.setattr(FileLock, "acquire", lambda *a, **k: pytest.fail("a lock was taken"))
    assert made_once(folder, lambda path: (path / "done").is_file(), lambda path: pytest.fail("made"), quiet) == folder


def test_what_an_incomplete_cache_holds_goes(tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "half").touch()
    made_once(tmp_path / "x", lambda path: (path / "done").is_file(), lambda path: (path / "done").touch(), quiet)
    assert {p.name for p in (tmp_path / "x").iterdir()} == {"done"}


def test_a_wait_for_another_process_is_said(tmp_path: Path):
    from filelock import FileLock

    told: list[str] = []
    lock = FileLock(f"{tmp_path / 'x'}.lock")
    lock.acquire()

    def told_then_free(text: str) -> None:
        told.append(text)
        lock.release()

    made_once(tmp_path / "x", Path.is_dir, lambda path: None, told_then_free)
    assert told == [f"waiting for another process that makes {tmp_path / 'x'} ..."]
    assert {p.name for p in tmp_path.iterdir()} <= {"x", "x.lock"}


def test_an_sae_that_its_repository_does_not_hold(tmp_path: Path, filled_hub, monkeypatch):
    use_hub(filled_hub, monkeypatch)
    server = serve(type("Mirrored", (Mirror,), {"root": filled_hub.root, "asked": []}), monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    code, text = scan_one(tmp_path, "--model", "gemma-2-2b", "--layer", 3)
    server.shutdown()
    assert (code, text) == (
        3,
        "gemma-scope-2b-pt-res-canonical/layer_3/width_16k/canonical: google/gemma-scope-2b-pt-res: has no file "
        "layer_3/width_16k/average_l0_59/params.npz; check the SAE's id and --sae-revision",
    )


def test_a_config_that_is_not_in_the_cache_is_inferred_offline(tmp_path: Path, monkeypatch):
    """Some of Gemma Scope 2's SAEs have none, and where their folder was downloaded the cache does not know that."""
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = hub.snapshot("google/gemma-scope-2-270m-pt") / "resid_post" / "layer_12_width_16k_l0_big"
    folder.mkdir(parents=True)
    spec = "gemma-scope-2-270m-pt-res/layer_12_width_16k_l0_big"
    with pytest.raises(TargetError, match=r"config\.json is not in the cache"):  # nor is anything else
        published(spec, lambda cfg: None, offline=True, notify=quiet)
    weights = {"w_enc": torch.randn(8, 16), "w_dec": torch.randn(16, 8), "b_dec": torch.zeros(8)}
    save_file({**weights, "b_enc": torch.zeros(16), "threshold": torch.ones(16)}, folder / "params.safetensors")
    cfg = read_cfg(published(spec, lambda cfg: None, offline=True, notify=quiet))
    assert cfg["metadata"] == {"model_name": "google/gemma-3-270m", "hook_name": "blocks.12.hook_resid_post"}
    assert (cfg["architecture"], cfg["d_in"]) == ("jumprelu", 8)
