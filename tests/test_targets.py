"""The table of targets against sae-lens' own, choices within it, pairs that do not fit, files that are missing."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import chat, geofilter, make_sae, use_hub, write_rows
from families import CASES, Hub, fitted, put_gemma_scope, put_native
from huggingface_hub import constants

from geofilter.config import Loading, TargetChoice
from geofilter.doctor import memory_needed
from geofilter.errors import InputError, TargetError
from geofilter.features import FeatureReader
from geofilter.hooks import Hook
from geofilter.hub import wanted_tensor
from geofilter.model import ResidualModel, parameters
from geofilter.pairing import same_model
from geofilter.sae import FeatureEncoder
from geofilter.targets import known, pick, ranges, resolve, span
from geofilter.tokens import Encoded

NAMES = ", ".join(known())


def quiet(_text):
    return None


def scan(tmp_path: Path, *args):
    write_rows(tmp_path / "d.jsonl", [chat("q", "the answer")])
    done = geofilter("scan", "d.jsonl", *args, cwd=tmp_path)
    return done.returncode, done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


# The table


@pytest.mark.parametrize("name", [n for n, row in known().items() if "sae" in row])
def test_the_table_is_what_sae_lens_publishes(name: str):
    """Every layer and width offered exists in sae-lens' directory, and none that exists is left out."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    row, directory = known()[name], get_pretrained_saes_directory()
    offered: dict[str, set[str]] = {}
    for width, layers in row["widths"].items():
        for layer in span(layers):
            release, _, sae_id = row["sae"].format(layer=layer, width=width).partition("/")
            offered.setdefault(release, set()).add(sae_id)
    for release, ids in offered.items():
        assert ids == set(directory[release].saes_map)
        # sae-lens' directory names the wrong model for gemma-scope-9b-it-res, not for its canonical release.
        assert same_model(directory[release].model, row["sae_model"])[0]
    assert row["layer"] in span(row["widths"][row["width"]])


@pytest.mark.parametrize("name", [n for n, row in known().items() if row.get("sae", "").startswith("gemma-scope")])
def test_hook_width_and_model_are_what_sae_lens_says(name: str):
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    row = known()[name]
    for layer in span(row["widths"][row["width"]]):
        cfg = load_sae_config_from_huggingface(*row["sae"].format(layer=layer, width=row["width"]).split("/", 1))
        assert cfg["metadata"]["hook_name"] == row["hook"].format(layer=layer)
        assert cfg["d_in"] == row["d_in"]
        assert same_model(cfg["metadata"]["model_name"], row["sae_model"])[0]


def test_pick_within_a_target():
    row = known()["gemma-2-2b"]
    assert pick("gemma-2-2b", row, None, None) == (12, "16k")
    assert pick("gemma-2-2b", row, 25, None) == (25, "16k")
    assert pick("gemma-2-2b", row, None, "65k") == (12, "65k")
    assert pick("gemma-2-2b", row, 5, "1m") == (5, "1m")
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, 26, None)
    assert str(caught.value) == "--layer 26: gemma-2-2b offers 0 to 25"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, 6, "1m")
    assert str(caught.value) == "--layer 6: gemma-2-2b at width 1m offers 5, 12, 19"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, None, "17k")
    assert str(caught.value) == "--width 17k: gemma-2-2b offers 16k, 65k, 32k, 262k, 524k, 1m"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-27b", known()["gemma-2-27b"], 12, None)
    assert str(caught.value) == "--layer 12: gemma-2-27b offers 10, 22, 34"


def test_spans_and_ranges():
    assert span("0-3") == [0, 1, 2, 3]
    assert span("5,12,19") == [5, 12, 19]
    assert (ranges([0, 1, 2, 3]), ranges([5, 12]), ranges([7])) == ("0 to 3", "5, 12", "7")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("google/gemma-2-2b", "gemma-2-2b", (True, True)),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", (True, True)),
        ("gemma-2-2b", "google/gemma-2-2b-it", (False, True)),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", (False, True)),
        ("gemma-2-2b", "gemma-2-9b", (False, False)),
        ("gemma-2-2b", "gemma-2b", (False, False)),
    ],
)
def test_model_names(a: str, b: str, expected: tuple[bool, bool]):
    assert same_model(a, b) == expected


# Choices that do not go together


def test_options_that_exclude_each_other(tmp_path: Path, tiny):
    pair = ["--model", tiny[0], "--sae", tiny[1]]
    for args, code, text in [
        (["--model", "gemma-2-2b", "--layer", 12, "--sae", "x/y"], 2,
         "--layer and --width choose the SAE, and so does --sae; give one or the other"),
        ([*pair, "--layer", 2], 2,
         f"--layer and --width choose within a named target ({NAMES}); name the SAE by --sae"),
        ([*pair, "--revision", "main"], 2,
         f"--revision main: {tiny[0]} is a folder; revisions are of hub repositories"),
        ([*pair, "--llama-scope-gate", "upstream"], 2,
         f"--llama-scope-gate upstream: {tiny[1]} is a folder, gated as it says"),
        ([*pair, "--device", "cpu", "--device-map", "auto"], 2,
         "--device cpu: --device-map chooses the devices; leave one of them out"),
        ([*pair, "--sae-dtype", "float16"], 2, "--sae-dtype float16: use float32 or bfloat16"),
        ([*pair, "--system", "drop"], 2, "--system drop: use keep or fold"),
        (["--model", "gemma-2-2b", "--layer", 26], 3, "--layer 26: gemma-2-2b offers 0 to 25"),
        (["--model", tmp_path, "--sae", tiny[1]], 3,
         f"--model {tmp_path}: the folder holds no config.json; give a Hugging Face model folder"),
        (["--model", tiny[0], "--sae", "/nowhere"], 3, "--sae /nowhere: no such folder"),
    ]:  # fmt: skip
        assert scan(tmp_path, *args) == (code, text)


# Pairs that do not fit


def test_pairs_that_do_not_fit(tmp_path: Path, hub):
    instruct = "meta-llama/Llama-3.1-8B-Instruct"
    wide = make_sae(tmp_path / "wide", d_in=48)
    beyond = make_sae(tmp_path / "beyond", layer=32)
    embed = make_sae(tmp_path / "embed", metadata={"model_name": "x", "hook_name": "hook_embed"})
    for args, text in [
        (["--model", instruct, "--sae", wide],
         f"{wide}: the SAE reads 48 dimensions, blocks.2.hook_resid_post of {instruct} has 32; "
         "they do not belong together"),
        (["--model", instruct, "--sae", beyond],
         f"{beyond}: reads blocks.32.hook_resid_post, but {instruct} has layers 0 to 31"),
        (["--model", instruct, "--sae", embed],
         "hook hook_embed: not supported; the SAE must read one of blocks.L.hook_resid_pre, blocks.L.hook_resid_post, "
         "blocks.L.hook_attn_out, blocks.L.hook_mlp_out, blocks.L.attn.hook_z"),
        (["--model", "google/gemma-2-2b", "--sae", "llama_scope_lxr_8x/l15r_8x"],
         "llama_scope_lxr_8x/l15r_8x: was trained on meta-llama/Llama-3.1-8B, not on google/gemma-2-2b; choose an SAE "
         "of that model, or, if it is a fine-tune of the same, pass --allow-other-model"),
    ]:  # fmt: skip
        assert scan(tmp_path, *args, "--offline") == (3, text)


def test_a_fine_tune_is_allowed_when_it_is_said(hub):
    choice = TargetChoice("meta-llama/Llama-3.1-8B", "someone/llama-saes/blocks.15.hook_resid_post")
    assert resolve(choice, offline=True, notify=quiet).notes == ()
    hub.snapshot("me/my-llama")
    folder = hub.snapshot("me/my-llama")
    if not any(folder.iterdir()):
        hub.model("me/my-llama", "llama", 32, False, shard="50MB")
    tuned = TargetChoice("me/my-llama", choice.sae)
    with pytest.raises(TargetError, match=r"was trained on meta-llama/Llama-3\.1-8B, not on me/my-llama"):
        resolve(tuned, offline=True, notify=quiet)
    target = resolve(TargetChoice("me/my-llama", choice.sae, allow_other_model=True), offline=True, notify=quiet)
    assert target.notes == ("the SAE was trained on meta-llama/Llama-3.1-8B and reads me/my-llama here, as allowed",)


def test_the_default_layer_does_not_change_a_pinned_choice(hub):
    target = resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet)
    assert target.choice.to_json() == {
        "model": "gemma-2-2b", "layer": 12, "width": "16k", "llama_scope_gate": "saelens",
        "revision": hub.snapshot("google/gemma-2-2b").name,
    }  # fmt: skip
    again = resolve(TargetChoice.from_json(target.choice.to_json()), offline=True, notify=quiet)
    assert again.fingerprint == target.fingerprint


def test_the_gate_is_part_of_the_fingerprint(hub):
    gates = [resolve(TargetChoice("llama-3.1-8b", llama_scope_gate=g), offline=True, notify=quiet).fingerprint
             for g in ("saelens", "upstream")]  # fmt: skip
    assert gates[0] != gates[1]


def test_an_sae_off_by_one_layer_stops_the_scan(tmp_path: Path, hub):
    """The SAE fits layer 12, and its files say 11: the numbers tell."""
    folder = hub.snapshot("google/gemma-2-2b")
    view = resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet).model_dir
    assert view != folder
    put_native(tmp_path / "sae", fitted(view, 12), "blocks.11.hook_resid_post", "google/gemma-2-2b")
    args = ["--model", "google/gemma-2-2b", "--sae", tmp_path / "sae", "--offline"]
    code, text = scan(tmp_path, *args)
    assert code == 3
    assert text.startswith("google/gemma-2-2b: the SAE declares layer 11 but explains layer 12 best (layer 10: 0.")
    assert text.endswith("); model and SAE do not belong together, or the layer is off by one")
    rows = write_rows(tmp_path / "seeds.jsonl", [chat(f"q {i}", f"a {i}") for i in range(12)])
    done = geofilter("bank", "build", "--bad", rows, "--good", rows, "--out", tmp_path / "b", *args)
    assert done.returncode == 3
    assert "explains layer 12 best" in done.stderr
    done = geofilter("doctor", *args[:-1])
    assert done.returncode == 3
    assert "FAIL pair: google/gemma-2-2b: the SAE declares layer 11 but explains layer 12 best" in done.stdout


# Files


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
def test_wanted_tensor(key: str, wanted: bool):
    assert wanted_tensor(key, 5) is wanted


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    model = (
        f"google/gemma-2-2b: config.json is not in the cache {hub.root} and the hub may not be used; "
        "get it where there is a network: hf download google/gemma-2-2b"
    )
    sae = (
        "google/gemma-scope-2b-pt-res: layer_12/width_16k/average_l0_82/params.npz is not in the cache "
        f"{hub.root} and the hub may not be used; get it where there is a network: "
        "hf download google/gemma-scope-2b-pt-res layer_12/width_16k/average_l0_82/params.npz"
    )
    assert scan(tmp_path, "--model", "gemma-2-2b") == (3, model)
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
    assert scan(tmp_path, "--model", "gemma-2-2b", "--offline") == (
        3,
        f"google/gemma-2-2b: {', '.join(gone)} not in the cache {hub.root} and the hub may not be used; get them where "
        f"there is a network: hf download google/gemma-2-2b {' '.join(gone)} --revision {folder.name}",
    )
    assert scan(tmp_path, "--model", "gemma-2-2b", "--revision", "v2", "--offline") == (
        3,
        f"google/gemma-2-2b: config.json is not in the cache {hub.root} and the hub may not be used; "
        "get it where there is a network: hf download google/gemma-2-2b --revision v2",
    )


def test_a_chat_model_without_its_template_is_not_read_as_plain_turns(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    hub.model("google/gemma-2-2b-it", "gemma2", 14, chat=False)
    assert scan(tmp_path, "--model", "gemma-2-2b-it", "--offline") == (
        3,
        "google/gemma-2-2b-it: its chat template is not in the cache (chat_template.jinja or tokenizer_config.json); "
        "get it where there is a network: hf download google/gemma-2-2b-it",
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
    needed = {file for key, file in index["weight_map"].items() if wanted_tensor(key, 14)}
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
    assert scan(tmp_path, "--model", "gemma-2-2b") == (
        3,
        "google/gemma-2-2b: gated; accept its licence at https://huggingface.co/google/gemma-2-2b, "
        "then run: hf auth login",
    )
    assert scan(tmp_path, "--model", "absent/model", "--sae", tiny[1]) == (
        3,
        "absent/model: no such repository, or a private one; check the name, or run: hf auth login",
    )
    assert scan(tmp_path, "--model", "old/model", "--sae", tiny[1], "--revision", "v9") == (
        3,
        "old/model: has no revision v9; give a branch, tag or commit of it",
    )


def test_a_hub_that_does_not_answer(tmp_path: Path, fake_hub, tiny, monkeypatch):
    fake_hub.shutdown()
    fake_hub.server_close()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its five tries
    code, text = scan(tmp_path, "--model", "google/gemma-2-2b", "--sae", tiny[1])
    assert code == 3
    assert text == (
        f"google/gemma-2-2b: config.json is not in the cache {tmp_path / 'hub'} and the hub does not answer; "
        "get it where there is a network: hf download google/gemma-2-2b"
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


# Hooks and memory


def test_hook_names():
    assert Hook.parse("blocks.12.attn.hook_z") == Hook(12, "attn.hook_z")
    assert str(Hook.parse("blocks.3.hook_mlp_out")) == "blocks.3.hook_mlp_out"
    for name in ("blocks.3.hook_q", "hook_embed", "blocks.x.hook_resid_post", "3.hook_resid_post"):
        with pytest.raises(TargetError, match=f"hook {name}: not supported"):
            Hook.parse(name)


def test_parameters_are_counted_as_they_are_built(hub):
    for name in ("gemma-2-2b", "llama-3.1-8b", "gpt-oss-20b"):
        target = resolve(TargetChoice(name), offline=True, notify=quiet)
        model = ResidualModel(target.model_dir, [target.layer + 1], Loading("cpu", "float32"))
        built = sum(p.numel() for p in model.model.parameters())
        assert parameters(target.model_dir, target.layer + 2) == built


def test_the_memory_estimate_of_the_real_gemma_2_2b(tmp_path: Path):
    """Nothing is allocated: the real sizes on the meta device, against the arithmetic of the architecture."""
    from transformers import Gemma2Config

    Gemma2Config(
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256,
    ).save_pretrained(tmp_path)  # fmt: skip
    need = memory_needed(tmp_path, 12, 2304, 16384, Loading("cpu", "bfloat16"), 1024)
    attention = 2304 * 256 * (8 + 4 + 4 + 8)
    layer = attention + 3 * 2304 * 9216 + 4 * 2304
    assert need.layers == 14
    assert need.model == 2 * (256000 * 2304 + 14 * layer + 2304)
    assert need.encoder == 4 * 2304 * 16384


def test_doctor_on_a_named_target(hub):
    done = geofilter("doctor", "--model", "gemma-2-2b-it", "--json")
    checks = json.loads(done.stdout)
    assert [c["name"] for c in checks[5:]] == ["files", "note", "memory", "pair"]
    assert all(c["ok"] for c in checks), checks
    assert "another training stage of the same model" in checks[6]["text"]
    assert "GB: model 0.0 (14 layers in float32)" in checks[7]["text"]
    assert checks[8]["text"].startswith("gemma-2-2b-it: explained variance layer 11: 0.")
    assert "; L0 " in checks[8]["text"]


def test_loading_checks_its_values():
    for options, text in [
        ({"dtype": "int8"}, "--dtype int8: use auto, float32, bfloat16 or float16"),
        ({"device_map": "all"}, "--device-map all: use auto, balanced, balanced_low_0 or sequential"),
    ]:
        with pytest.raises(InputError) as caught:
            Loading(**options)
        assert str(caught.value) == text


def test_too_little_gpu_memory_is_said_with_remedies(tiny, monkeypatch):
    from transformers import AutoModel

    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    said = (
        "cpu: not enough memory; free it, use --dtype bfloat16, --sae-dtype bfloat16, a smaller --max-tokens, "
        "several GPUs (--device-map auto) or --device cpu; geofilter doctor estimates the need"
    )
    for place, name in ((AutoModel, "from_pretrained"), (FeatureEncoder, "_tensor"), (FeatureEncoder, "encode")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(TargetError) as caught:
                FeatureReader(target, Loading("cpu")).read([Encoded((1, 2, 3), (False, True, True), False)])
            assert str(caught.value) == said


# What must not happen


def test_a_model_s_own_python_code_is_never_run_and_never_asked_about(tmp_path: Path, tiny, monkeypatch):
    import io
    import shutil

    shutil.copytree(tiny[0], tmp_path / "evil")
    config = json.loads((tmp_path / "evil" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "conf.Evil", "AutoModel": "conf.Evil"}}
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil" / "conf.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.chdir(tmp_path)
    code, text = scan(tmp_path, "--model", tmp_path / "evil", "--sae", tiny[1])
    assert code == 3
    assert text.startswith(f"{tmp_path / 'evil'}: not a decoder-only language model that transformers knows (")
    assert not (tmp_path / "ran").exists()


def test_a_model_that_is_done_with_gives_its_memory_back(tiny):
    """The check of a pair loads a model of its own: it must be gone when the scan's is loaded."""
    import gc
    import weakref

    gc.disable()
    try:
        model = ResidualModel(tiny[0], [1], Loading("cpu"))
        ids = torch.ones((1, 4), dtype=torch.int64)
        model.residuals(ids, ids)
        weight = weakref.ref(model.model.embed_tokens.weight)
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_each_way_of_reading_has_its_own_built_in_bank(tiny):
    from geofilter.config import precision
    from geofilter.seeding import cached

    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    ways = [precision("float32", "float32"), precision("bfloat16", "float32"), precision("float32", "bfloat16")]
    assert ways == ["float32", "bfloat16", "float32-sae-bfloat16"]
    assert len({cached("toxic-text", target, way) for way in ways}) == 3


def test_only_a_pair_that_passed_is_remembered(tiny, tmp_path: Path, monkeypatch):
    from geofilter import doctor

    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    with monkeypatch.context() as patch:
        for figures in ({1: float("nan"), 2: float("nan"), 3: float("nan")}, {1: -1.0, 2: -2.0, 3: -3.0}):
            full = {layer: {"explained_variance": ev, "l0": 1.0} for layer, ev in figures.items()}
            patch.setattr(doctor, "_explained_variance", lambda *a, full=full: full)
            with pytest.raises(TargetError, match="reconstructs none of the layers"):
                doctor.require_pair(target, Loading("cpu"), quiet)
    doctor.require_pair(target, Loading("cpu"), quiet)
    assert [p.name for p in (tmp_path / "cache" / "pairs").iterdir()] == [f"{target.fingerprint[:16]}-float32.json"]
    monkeypatch.setattr(doctor, "_explained_variance", lambda *a: pytest.fail("measured again"))
    doctor.require_pair(target, Loading("cpu"), quiet)


def test_overflow_in_float16_is_said(tiny, tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny[0], tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e9
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    code, text = scan(tmp_path, "--model", tmp_path / "m", "--sae", tiny[1], "--dtype", "float16")
    assert (code, text) == (3, "m: layer 1 is not finite in float16; use --dtype float32")


def test_revisions_of_what_is_no_repository_are_refused(tiny, tmp_path: Path):
    assert scan(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--sae-revision", "x") == (
        2,
        "--sae-revision x: the SAE is a folder; revisions are of hub repositories",
    )
    assert scan(tmp_path, "--model", "smollm2-135m", "--revision", "x") == (
        2,
        "--revision x: HuggingFaceTB/SmolLM2-135M-Instruct is embedded; revisions are of hub repositories",
    )


def test_a_template_that_appears_later_is_another_target(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = hub.model("org/gemma-2-2b", "gemma2", 14, chat=True)
    put_native(tmp_path / "sae", fitted(folder, 12), "blocks.12.hook_resid_post", "google/gemma-2-2b")
    choice = TargetChoice("org/gemma-2-2b", str(tmp_path / "sae"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    without = resolve(choice, offline=True, notify=quiet)
    (folder / "chat_template.jinja").write_text(template)
    assert resolve(choice, offline=True, notify=quiet).fingerprint != without.fingerprint


def test_damaged_files_of_model_and_sae(tiny, tmp_path: Path):
    import shutil

    for name, text in [
        ("model.safetensors", "m: not a loadable model ("),
        ("tokenizer.json", "m: its configuration or tokenizer cannot be read ("),
        ("config.json", "m: not a decoder-only language model that transformers knows ("),
    ]:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(tiny[0], tmp_path / "m")
        (tmp_path / "m" / name).write_text("{}")
        code, found = scan(tmp_path, "--model", "m", "--sae", tiny[1])
        assert (code, found[: len(text)]) == (3, text)
    shutil.copytree(tiny[1], tmp_path / "sae")
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(b"half")
    done = geofilter("doctor", "--model", tiny[0], "--sae", tmp_path / "sae")
    assert done.returncode == 3
    assert f"FAIL target: {tmp_path / 'sae'}: SAE weights cannot be used (" in done.stdout


def test_what_is_typed_rules_out_the_file_s_target(tiny, tmp_path: Path):
    """A layer, a revision or an SAE in the settings file belongs to the model there, not to one that is typed."""
    (tmp_path / "geofilter.toml").write_text(
        'model = "gemma-2-2b"\nlayer = 12\nrevision = "abc"\nllama-scope-gate = "upstream"\n'
    )
    code, text = scan(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--bank", "nothing")
    assert (code, text) == (3, "--bank nothing: neither a built-in bank (toxic-text, harmful-answers) nor a folder")
    (tmp_path / "geofilter.toml").write_text(f'model = "{tiny[0]}"\nsae = "/nowhere"\nsae-revision = "x"\n')
    code, text = scan(tmp_path, "--sae", tiny[1], "--bank", "nothing")
    assert (code, text) == (3, "--bank nothing: neither a built-in bank (toxic-text, harmful-answers) nor a folder")


def test_two_processes_make_a_view_once(hub, tmp_path: Path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    choice = TargetChoice("llama-3.1-8b")
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda _: resolve(choice, offline=True, notify=quiet), range(4)))
    assert len({t.model_dir for t in targets}) == len({t.fingerprint for t in targets}) == 1
    assert not list((tmp_path / "cache").rglob("tmp*"))
