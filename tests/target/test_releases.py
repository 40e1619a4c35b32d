"""Published SAEs: what sae-lens makes of a hub's files is what the encoder computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command import geofilter, use_hub
from helpers.families import D_IN, D_SAE, Hub
from helpers.family_saes import (
    put_deepseek_r1,
    put_dictionary_learning,
    put_gemma_scope,
    put_gemma_scope_2,
    put_llama_scope,
    put_llama_scope_r1,
    put_native,
    put_qwen_scope,
    random_sae,
)
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import InputError, TargetError
from geofilter.target.directory import find
from geofilter.target.releases import modernised, pinned, published

CPU = torch.device("cpu")

SAES = {
    "gemma_2": "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical",
    "llama_scope": "llama_scope_lxr_8x/l15r_8x",
    "dictionary_learning_1, BatchTopK": "llama-3.1-8b-instruct-andyrdt/resid_post_layer_15_trainer_1",
    "goodfire": "goodfire-llama-3.1-8b-instruct/layer_19",
    "native": "someone/llama-saes/blocks.15.hook_resid_post",
    "gemma_3": "gemma-scope-2-1b-pt-res-all/layer_12_width_16k_l0_big",
    "qwen_scope": "qwen-scope-3-8b-base-w64k-l50/layer17",
    "llama_scope_r1_distill": "llama_scope_r1_distill/l15r_400m_slimpajama_400m_openr1_math",
}


def accept(_cfg):
    return None


def quiet(_text):
    return None


def load(spec: str, **options) -> FeatureEncoder:
    return FeatureEncoder(published(spec, accept, offline=True, notify=quiet, **options), CPU)


def theirs(spec: str):
    from sae_lens import SAE

    release, _, sae_id = spec.partition("/") if not spec.startswith("someone/") else spec.rpartition("/")
    info = find(spec)[2]
    with pinned(None, True, info.saes_map[sae_id] if info else sae_id):  # it asks the hub itself for tensors' shapes
        return SAE.from_pretrained(release, sae_id)


def dense(encoder: FeatureEncoder, x: torch.Tensor) -> torch.Tensor:
    acts = encoder.encode(x)
    out = torch.zeros(len(x), encoder.d_sae)
    out[acts.token, acts.feature] = acts.value
    return out


def vectors(n: int = 400) -> torch.Tensor:
    return 3 * torch.randn(n, D_IN, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", list(SAES))
def test_encode_and_decode_equal_sae_lens(family: str, hub):
    gate = "saelens" if family.startswith("llama_scope") else None
    ours, other = load(SAES[family], gate=gate), theirs(SAES[family])
    x = vectors()
    with torch.no_grad():
        expected = other.encode(x)
        torch.testing.assert_close(dense(ours, x), expected)
        torch.testing.assert_close(ours.decode(ours.encode(x), len(x)), other.decode(expected))
    assert 0 < (expected > 0).float().mean() < 1
    if other.cfg.architecture() == "jumprelu":
        assert ours.threshold is not None and ours.threshold.dtype == torch.float32
        assert ((expected == 0) & (x @ other.W_enc + other.b_enc > 0)).any() or other.cfg.apply_b_dec_to_input


@pytest.mark.parametrize(("kind", "architecture"), [("AutoEncoderTopK", "topk"), ("BatchTopKSAE", "jumprelu")])
def test_both_dictionary_learning_kinds(kind: str, architecture: str, tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "gpt-oss-20b-andyrdt/resid_post_layer_7_trainer_0"
    put_dictionary_learning(hub, *spec.split("/"), 7, random_sae(), "openai/gpt-oss-20b", kind)
    ours, other = load(spec), theirs(spec)
    assert ours.architecture == other.cfg.architecture() == architecture
    x = vectors()
    with torch.no_grad():
        torch.testing.assert_close(dense(ours, x), other.encode(x))


def test_an_sae_of_attention_heads_reads_them_side_by_side(tmp_path: Path, monkeypatch):
    """Gemma Scope's attention SAEs: sae-lens expects (heads, d_head), the model's projection gets them flat."""
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "gemma-scope-2b-pt-att-canonical/layer_12/width_16k/canonical"
    put_gemma_scope(hub, *spec.split("/", 1), random_sae())
    folder = published(spec, accept, offline=True, notify=quiet)
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"] == "blocks.12.attn.hook_z"
    other, x = theirs(spec), vectors()
    other.turn_off_forward_pass_hook_z_reshaping()
    with torch.no_grad():
        torch.testing.assert_close(dense(FeatureEncoder(folder, CPU), x), other.encode(x))


@pytest.mark.parametrize(
    ("spec", "put"),
    [
        ("gemma-scope-2-1b-pt-res/layer_7_width_65k_l0_medium", lambda *at: put_gemma_scope_2(*at, config=False)),
        ("deepseek-r1-distill-llama-8b-qresearch/blocks.19.hook_resid_post", put_deepseek_r1),
        ("qwen-scope-3.5-27b-w80k-l100/layer31", put_qwen_scope),
    ],
)
def test_releases_without_a_configuration(spec: str, put, tmp_path: Path, monkeypatch):
    """All that is known of them stands in their names, or in sae-lens' code."""
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    put(hub, *spec.split("/"), random_sae())
    ours, other, x = load(spec), theirs(spec), vectors()
    with torch.no_grad():
        torch.testing.assert_close(dense(ours, x), other.encode(x))
    metadata = json.loads((ours.path / "cfg.json").read_text())["metadata"]
    layer, model = {"gemma": (7, "google/gemma-3-1b-pt"), "qwen-": (31, "Qwen/Qwen3.5-27B"),
                    "deeps": (19, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B")}[spec[:5]]  # fmt: skip
    assert (metadata["hook_name"], metadata["model_name"]) == (f"blocks.{layer}.hook_resid_post", model)


def test_gates_of_llama_scope_s_sae_of_r1_equal_their_closed_forms(tmp_path: Path, monkeypatch):
    """A threshold a feature, which is compared with the pre-activation of the scaled input as it is."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    release, name = SAES["llama_scope_r1_distill"].split("/")
    file = put_llama_scope_r1(hub, release, name, 15, random_sae())
    raw = load_file(file.parent / "sae_weights.safetensors")
    x, norm = vectors(), raw["decoder.weight"].norm(dim=0)
    pre = x * get_norm_scaling_factor(release, name) @ raw["encoder.weight"].T + raw["encoder.bias"]
    threshold = raw["log_jumprelu_threshold"].exp()
    for gate, seen in (("saelens", pre), ("upstream", pre * norm), (None, pre * norm)):
        expected = torch.where((seen > threshold) & (pre > 0), pre, 0)
        torch.testing.assert_close(dense(load(f"{release}/{name}", gate=gate), x), expected)
    file.write_text(json.dumps({**json.loads(file.read_text()), "sparsity_include_decoder_norm": False}))
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "other"))
    torch.testing.assert_close(load(f"{release}/{name}").threshold, threshold)


def test_llama_scope_gates_equal_their_closed_forms(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "llama_scope_lxr_8x/l15r_8x"
    file = put_llama_scope(hub, "llama_scope_lxr_8x", "l15r_8x", 15, random_sae())
    raw = load_file(file.parent / "checkpoints" / "final.safetensors")
    hyper = json.loads(file.read_text())
    scale = D_IN**0.5 / hyper["dataset_average_activation_norm"]["in"]
    x = vectors()
    # As trained: the input is scaled, and with `sparsity_include_decoder_norm` the gate sees activation x norm.
    pre = (x * scale) @ raw["encoder.weight"].T + raw["encoder.bias"]
    norm = raw["decoder.weight"].norm(dim=0)
    theta = hyper["jump_relu_threshold"] * scale
    for gate, seen in (("saelens", pre), ("upstream", pre * norm)):
        expected = torch.where((seen > theta) & (pre > 0), pre, 0)
        torch.testing.assert_close(dense(load(spec, gate=gate), x), expected)
    assert not torch.equal(dense(load(spec, gate="saelens"), x) > 0, dense(load(spec, gate="upstream"), x) > 0)
    torch.testing.assert_close(load(spec).threshold, load(spec, gate="upstream").threshold, rtol=0, atol=0)


def test_upstream_is_the_same_gate_where_the_norm_was_left_out(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "llama_scope_lxr_8x/l15r_8x"
    file = put_llama_scope(hub, "llama_scope_lxr_8x", "l15r_8x", 15, random_sae())
    file.write_text(json.dumps({**json.loads(file.read_text()), "sparsity_include_decoder_norm": False}))
    torch.testing.assert_close(load(spec, gate="upstream").threshold, load(spec, gate="saelens").threshold)


def test_gate_errors(hub):
    with pytest.raises(InputError) as caught:
        load(SAES["llama_scope"], gate="other")
    assert str(caught.value) == "--llama-scope-gate other: use upstream or saelens"
    with pytest.raises(InputError) as caught:
        load(SAES["gemma_2"], gate="upstream")
    assert str(caught.value) == (
        f"--llama-scope-gate upstream: {SAES['gemma_2']} is not a Llama Scope SAE; leave the option out"
    )


def test_a_second_start_needs_neither_sae_lens_nor_the_hub(hub):
    folder = published(SAES["gemma_2"], accept, offline=True, notify=quiet)
    code = (
        "import sys, torch\nfrom geofilter.encode.sae import FeatureEncoder\n"
        "from geofilter.target.releases import published\n"
        f"print(published({SAES['gemma_2']!r}, lambda cfg: None, offline=True))\n"
        "assert not {'sae_lens', 'transformer_lens', 'huggingface_hub'} & set(sys.modules), 'imported'"
    )
    empty = {"HF_HOME": "/nonexistent", "GEOFILTER_CACHE": os.environ["GEOFILTER_CACHE"]}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **empty})
    assert (done.stdout.strip(), done.stderr) == (str(folder), "")


def test_where_it_came_from_is_kept(hub):
    source = json.loads(
        (published(SAES["llama_scope"], accept, offline=True, notify=quiet) / "source.json").read_text()
    )
    repo = "fnlp/Llama3_1-8B-Base-LXR-8x"
    assert [(f["repo"], f["name"].rpartition("/")[2], f["commit"]) for f in source["files"]] == [
        (repo, "hyperparams.json", hub.snapshot(repo).name),
        (repo, "final.safetensors", hub.snapshot(repo).name),
    ]
    assert source["llama_scope_gate"] == "upstream"
    assert source["norm_scaling_factor"] == pytest.approx(5.919, abs=1e-3)


def test_the_files_of_a_pinned_revision_are_taken(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "gpt-oss-20b-andyrdt/resid_post_layer_7_trainer_0"
    sae = random_sae()
    put_dictionary_learning(hub, *spec.split("/"), 7, sae, "openai/gpt-oss-20b")
    old = hub.snapshot("andyrdt/saes-gpt-oss-20b")
    new = old.parent / ("f" * 40)
    old.rename(new)  # main moves on: what was main stays as another commit
    sae.bias = sae.bias + 1
    put_dictionary_learning(hub, *spec.split("/"), 7, sae, "openai/gpt-oss-20b")
    main, pinned = load(spec), load(spec, revision="f" * 40)
    torch.testing.assert_close(main.b_enc, pinned.b_enc + 1)
    with pytest.raises(TargetError, match="is not in the cache"):
        load(spec, revision="e" * 40)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    spec = "gpt-oss-20b-andyrdt/resid_post_layer_7_trainer_0"
    file = put_dictionary_learning(hub, *spec.split("/"), 7, random_sae(), "openai/gpt-oss-20b")
    torch.save({"encoder.weight": Evil()}, file)
    with pytest.raises(TargetError) as caught:
        load(spec)
    assert str(caught.value) == f"{spec}: holds pickled code, which is never run; use a release of plain tensors"
    assert not (tmp_path / "evil").exists()


def test_a_damaged_file(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    file = put_llama_scope(hub, "llama_scope_lxr_8x", "l15r_8x", 15, random_sae())
    (file.parent / "checkpoints" / "final.safetensors").write_bytes(b"half")
    with pytest.raises(TargetError) as caught:
        load("llama_scope_lxr_8x/l15r_8x")
    assert str(caught.value).startswith("llama_scope_lxr_8x/l15r_8x: sae-lens cannot read it (SafetensorError: ")
    assert not list((tmp_path / "cache").rglob("source.json"))  # nothing half-made is kept


def test_unknown_releases_and_ids():
    for spec, text in [
        ("gemma-scope-2b-pt-res-canonical/layer_12/width_17k/canonical",
         "gemma-scope-2b-pt-res-canonical has no SAE layer_12/width_17k/canonical; nearest: layer_"),
        ("gemma-scope-2b-res/layer_12", "neither a folder nor RELEASE/SAE_ID of sae-lens nor ORG/REPO/FOLDER; "
         "did you mean gemma-scope-2b-pt-res"),
        ("nothing", "neither a folder nor RELEASE/SAE_ID of sae-lens nor ORG/REPO/FOLDER; see the list at "
         "https://decoderesearch.github.io/SAELens/latest/pretrained_saes/"),
    ]:  # fmt: skip
        with pytest.raises(TargetError) as caught:
            load(spec)
        assert str(caught.value).startswith(f"--sae {spec}: {text}")


def test_a_missing_file_names_repository_file_and_command(tmp_path: Path, monkeypatch):
    use_hub(Hub(tmp_path / "hub"), monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TargetError) as caught:
        load(SAES["gemma_2"])
    assert str(caught.value) == (
        "google/gemma-scope-2b-pt-res: layer_12/width_16k/average_l0_82/params.npz is not in the cache "
        f"{constants.HF_HUB_CACHE} and the hub may not be used; get it where there is a network: "
        "hf download google/gemma-scope-2b-pt-res --include 'layer_12/width_16k/average_l0_82/*'"
    )


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        ({"architecture": "gated"}, "architecture gated is not supported; use topk, jumprelu, standard"),
        (
            {"normalize_activations": "layer_norm"},
            "normalises its input (layer_norm), which is not supported; fold the scaling into the weights first",
        ),
    ],
)
def test_kinds_that_are_not_computed_are_refused(cfg: dict, text: str, tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = put_native(hub.snapshot("someone/saes") / "x", random_sae(), "blocks.1.hook_resid_post", "tiny", **cfg)
    if cfg.get("architecture") == "gated":
        weights = load_file(folder / "sae_weights.safetensors")
        del weights["b_enc"]
        zeros = {name: torch.zeros(D_SAE) for name in ("b_gate", "r_mag", "b_mag")}
        save_file({**weights, **zeros}, folder / "sae_weights.safetensors")
    with pytest.raises(TargetError) as caught:
        load("someone/saes/x")
    assert str(caught.value) == f"someone/saes/x: {text}"


def test_an_old_native_folder_and_one_that_selects_by_decoder_norm(tmp_path: Path, monkeypatch):
    from sae_lens import SAE

    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    sae = random_sae()
    sae.dec = sae.dec * torch.linspace(0.5, 2, D_SAE).unsqueeze(1)
    folders = [
        put_native(tmp_path / "old", sae, "blocks.1.hook_resid_post", "tiny"),
        put_native(tmp_path / "topk", sae, "blocks.1.hook_resid_post", "tiny", architecture="topk", k=9,
                   rescale_acts_by_decoder_norm=True),
    ]  # fmt: skip
    old = json.loads((folders[0] / "cfg.json").read_text())
    metadata = old.pop("metadata")
    old |= {"hook_name": metadata["hook_name"], "model_name": "tiny", "hook_layer": 1, "hook_head_index": None,
            "activation_fn_str": "relu", "prepend_bos": True, "dataset_path": "x", "context_size": 8,
            "finetuning_scaling_factor": False, "sae_lens_training_version": None}  # fmt: skip
    (folders[0] / "cfg.json").write_text(json.dumps(old))
    for folder in folders:
        made = modernised(folder, quiet)
        other = SAE.load_from_disk(folder)
        x = vectors()
        with torch.no_grad():
            expected = other.encode(x)
            torch.testing.assert_close(dense(FeatureEncoder(made, CPU), x), expected)
        ours = FeatureEncoder(made, CPU)
        torch.testing.assert_close(ours.decode(ours.encode(x), len(x)), other.decode(expected).detach())
        assert json.loads((made / "cfg.json").read_text())["metadata"]["hook_name"] == "blocks.1.hook_resid_post"


def test_an_sae_of_processed_weights_is_refused_before_its_weights_are_fetched(tmp_path: Path, monkeypatch):
    """GPT-2's residual SAEs were trained on centred weights; their configuration is all that is there."""
    from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name

    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    spec = "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    repo, path = get_repo_id_and_folder_name(*spec.split("/"))
    folder = put_native(hub.snapshot(repo) / path, random_sae(), "blocks.8.hook_resid_pre", "gpt2-small")
    (folder / "sae_weights.safetensors").unlink()
    hub.model("org/gpt2-small", "llama", 10, False)
    done = geofilter("scan", "d.jsonl", "--model", "org/gpt2-small", "--sae", spec, cwd=make_data(tmp_path))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"geofilter: error: {spec}: trained on weights that TransformerLens had processed (center_writing_weights); "
        "the plain model's residual stream is another one, so this SAE cannot be used"
    )


def test_a_file_that_is_not_in_the_repository_is_left_to_sae_lens(tmp_path: Path, monkeypatch):
    """Gemma Scope 2 has releases without a config.json: sae-lens infers it then, from the name and the shapes."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders

    from geofilter.target import releases

    weights = tmp_path / "models--x" / "snapshots" / "abc" / "params.safetensors"
    weights.parent.mkdir(parents=True)
    save_file({"w_enc": torch.zeros(32, 128)}, weights)

    def download(repo, name, **_):
        if name.endswith("config.json"):
            raise EntryNotFoundError("404")
        return str(weights)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    original = loaders.hf_hub_download
    with releases.pinned(None, False, "x") as files:
        with pytest.raises(EntryNotFoundError):
            loaders.hf_hub_download("org/saes", "x/config.json")
        assert loaders.get_safetensors_tensor_shapes("org/saes", "x/params.safetensors") == {"w_enc": [32, 128]}
    assert [f["commit"] for f in files] == ["abc"]
    assert loaders.hf_hub_download is original


def make_data(folder: Path) -> Path:
    (folder / "d.jsonl").write_text('{"text": "the doctor"}\n')
    return folder
