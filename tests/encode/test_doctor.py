"""Memory, the check of the pair, and what doctor says of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.command import chat, geofilter, quiet, scan_one, write_rows
from helpers.families import fitted, put_native

from geofilter.config import Loading, TargetChoice
from geofilter.encode import pair
from geofilter.encode.model import ResidualModel, parameters
from geofilter.encode.need import memory_needed
from geofilter.encode.pair import FLOOR, judge_pair, require_pair
from geofilter.encode.reader import FeatureReader
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import Encoded, Window
from geofilter.errors import TargetError
from geofilter.target.resolve import resolve


def test_an_sae_off_by_one_layer_stops_the_scan(tmp_path: Path, hub):
    """The SAE fits layer 12, and its files say 11: the numbers tell."""
    folder = hub.snapshot("google/gemma-2-2b")
    view = resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet).model_dir
    assert view != folder
    put_native(tmp_path / "sae", fitted(view, 12), "blocks.11.hook_resid_post", "google/gemma-2-2b")
    args = ["--model", "google/gemma-2-2b", "--sae", tmp_path / "sae", "--offline"]
    code, text = scan_one(tmp_path, *args)
    assert code == 3
    assert text.startswith("google/gemma-2-2b: the SAE declares layer 11 but explains layer 12 best (layer 10: 0.")
    assert text.endswith("); model and SAE do not belong together, or the layer is off by one")
    rows = write_rows(tmp_path / "seeds.jsonl", [chat(f"q {i}", f"a {i}") for i in range(12)])
    done = geofilter("bank", "build", "--no-prior", "--bad", rows, "--good", rows, "--out", tmp_path / "b", *args)
    assert done.returncode == 3
    assert "explains layer 12 best" in done.stderr
    done = geofilter("doctor", *args[:-1])
    assert done.returncode == 3
    assert "FAIL pair: google/gemma-2-2b: the SAE declares layer 11 but explains layer 12 best" in done.stdout


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
    assert "GB: model 0.00 (14 layers in float32)" in checks[7]["text"]
    assert checks[8]["text"].startswith("gemma-2-2b-it: explained variance layer 11: 0.")
    assert "; L0 " in checks[8]["text"]


def test_too_little_gpu_memory_is_said_with_remedies(tiny, monkeypatch):
    from transformers import AutoModel

    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    said = (
        "cpu: not enough memory; free it, use --dtype bfloat16, --sae-dtype bfloat16, a smaller --max-tokens, "
        "several GPUs (--device-map auto) or --device cpu; geofilter doctor estimates the need"
    )
    tokens = (1, 2, 3), (False, True, True)
    row = Encoded(*tokens, (Window(*tokens),))
    for place, name in ((AutoModel, "from_pretrained"), (FeatureEncoder, "tensor"), (FeatureEncoder, "encode")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(TargetError) as caught:
                FeatureReader(target, Loading("cpu")).read([row])
            assert str(caught.value) == said


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


def test_only_a_pair_that_passed_is_remembered(tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    with monkeypatch.context() as patch:
        for figures in ({1: float("nan"), 2: float("nan"), 3: float("nan")}, {1: -1.0, 2: -2.0, 3: -3.0}):
            full = {layer: {"explained_variance": ev, "l0": 1.0} for layer, ev in figures.items()}
            patch.setattr(pair, "explained_variance", lambda *a, full=full: full)
            with pytest.raises(TargetError, match="reconstructs none of the layers"):
                require_pair(target, Loading("cpu"), quiet)
    require_pair(target, Loading("cpu"), quiet)
    assert [p.name for p in (tmp_path / "cache" / "pairs").iterdir()] == [f"{target.fingerprint[:16]}-float32.json"]
    monkeypatch.setattr(pair, "explained_variance", lambda *a: pytest.fail("measured again"))
    require_pair(target, Loading("cpu"), quiet)


def test_a_remembered_pair_is_judged_anew(tiny, tmp_path: Path, monkeypatch):
    """The same weights can have passed as those of the SAE's own model, of which less is asked."""
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    low = {layer: {"explained_variance": 0.3 if layer == target.layer else 0.1, "l0": 1.0} for layer in (1, 2, 3)}
    monkeypatch.setattr(pair, "explained_variance", lambda *a: low)
    own = replace(target, trained_on_it=True)
    require_pair(own, Loading("cpu"), quiet)
    with pytest.raises(TargetError, match="explains too little of it"):
        require_pair(target, Loading("cpu"), quiet)
    monkeypatch.setattr(pair, "explained_variance", lambda *a: pytest.fail("measured again"))
    require_pair(own, Loading("cpu"), quiet)


def test_a_fine_tune_that_its_base_s_sae_explains_too_little_of_is_refused(tiny):
    """Of a model's own SAE it is no fault to explain little: a narrow one does."""
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    assert not target.trained_on_it
    figures = {1: 0.2, 2: FLOOR - 0.01, 3: 0.3}
    full = {layer: {"explained_variance": ev, "l0": 1.0} for layer, ev in figures.items()}
    check = judge_pair(target, full)
    assert (check.ok, check.text) == (
        False,
        f"{target.name}: the SAE was not trained on this model and explains too little of it (layer 1: 0.200, layer 2: "
        f"{FLOOR - 0.01:.3f}, layer 3: 0.300; at least {FLOOR} is asked of a fine-tune); train one for it: geofilter "
        "sae train",
    )
    assert judge_pair(replace(target, trained_on_it=True), full).ok
    full[2]["explained_variance"] = FLOOR
    assert judge_pair(target, full).ok


def test_overflow_in_float16_is_said(tiny, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny[0], tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e9
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    code, text = scan_one(tmp_path, "--model", tmp_path / "m", "--sae", tiny[1], "--dtype", "float16")
    assert (code, text) == (3, "m: layer 1 is not finite in float16; use --dtype float32")


def test_a_template_that_refuses_ordinary_chat_is_said(tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny[0], tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ raise_exception('tools only') }}")
    args = ("--model", tmp_path / "m", "--sae", tiny[1])
    code, text = scan_one(tmp_path, *args)
    assert code == 3
    assert text.startswith("m: cannot read ordinary chat: ")
    assert "tools only" in text
    done = geofilter("doctor", *args)
    assert done.returncode == 3
    assert f"FAIL target: {text}" in done.stdout
    seeds = write_rows(tmp_path / "seeds.jsonl", [chat(f"q {i}", f"a {i}") for i in range(12)])
    done = geofilter("bank", "build", "--no-prior", "--bad", seeds, "--good", seeds, "--out", tmp_path / "b", *args)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, f"geofilter: error: {text}")


def test_a_pair_is_checked_even_where_that_cannot_be_remembered(tiny, tmp_path: Path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the cache should be")
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    require_pair(target, Loading("cpu"), told.append)
    assert (
        told[-1] == f"note: {tmp_path / 'cache' / 'pairs'} cannot be written, so the next start checks this pair again"
    )
