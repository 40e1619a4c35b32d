"""SAEs as dictionary_learning and sparsify save them, against their formulas written out."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import geofilter, quiet, scan_one, use_hub
from helpers.families import D_IN, D_SAE, Hub
from safetensors.torch import load_file, save_file

from geofilter.config import TargetChoice
from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import TargetError
from geofilter.target.releases import converted, published
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import read_cfg

K = 12
X = 3 * torch.randn(300, D_IN, generator=torch.Generator().manual_seed(5))


def matrices(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (0.4 * torch.randn(*shape, generator=generator)).to(dtype)

    return {"enc": random(D_SAE, D_IN), "b": random(D_SAE), "dec": random(D_IN, D_SAE), "mean": random(D_IN)}


def dictionary(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **trainer: Any) -> Path:
    """A folder of dictionary_learning: names and shapes of the weights are each class' own."""
    m = matrices(dtype=dtype)
    linear = {"encoder.weight": m["enc"], "encoder.bias": m["b"], "decoder.weight": m["dec"]}
    bare = {"W_enc": m["enc"].T.contiguous(), "b_enc": m["b"], "W_dec": m["dec"].T.contiguous(), "b_dec": m["mean"]}
    gate = {"k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    weights = {
        "AutoEncoder": {**linear, "bias": m["mean"]},
        "AutoEncoderNew": {**linear, "decoder.bias": m["mean"]},
        "AutoEncoderTopK": {**linear, "b_dec": m["mean"], **gate},
        "BatchTopKSAE": {**linear, "b_dec": m["mean"], **gate},
        "MatryoshkaBatchTopKSAE": {**bare, **gate, "group_sizes": torch.tensor([32, 96])},
        "JumpReluAutoEncoder": {**bare, "threshold": torch.linspace(0, 1.5, D_SAE)},
    }.get(kind, linear)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ae.pt")
    about = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "k": K, "layer": 2, "lm_name": "org/tiny"}
    config = {"trainer": {**about, **trainer}, "buffer": {"ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def by_formula(kind: str, m: dict[str, torch.Tensor]) -> torch.Tensor:
    """Activations as the class computes them, (n, D_SAE)."""
    x = X if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else X - m["mean"]
    pre = x @ m["enc"].T + m["b"]
    act = pre.relu()
    if kind in ("AutoEncoderTopK", "sparsify"):
        top = act.topk(K)
        return torch.zeros_like(act).scatter_(1, top.indices, top.values)
    if kind == "JumpReluAutoEncoder":
        return (pre * (pre > torch.linspace(0, 1.5, D_SAE))).relu()
    return act * (act > 0.7) if "BatchTopK" in kind else act


def compare(folder: Path, kind: str, m: dict[str, torch.Tensor]) -> None:
    encoder = FeatureEncoder(folder, torch.device("cpu"))
    acts = encoder.encode(X)
    found = torch.zeros(len(X), D_SAE)
    found[acts.token, acts.feature] = acts.value
    wanted = by_formula(kind, m)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(encoder.decode(acts, len(X)), wanted @ m["dec"].T + m["mean"])
    assert 0 < (wanted > 0).float().mean() < 0.9


CLASSES = ("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
           "JumpReluAutoEncoder")  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_of_dictionary_learning(kind: str, tmp_path: Path):
    folder = converted(dictionary(tmp_path / kind, kind), quiet)
    compare(folder, kind, matrices())
    assert read_cfg(folder)["metadata"] == {"hook_name": "blocks.2.hook_resid_post", "model_name": "org/tiny"}


def sparsify(folder: Path, dtype: torch.dtype = torch.float32, model: str | None = "org/tiny", **cfg: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    m = matrices(dtype=dtype)
    weights = {"encoder.weight": m["enc"], "encoder.bias": m["b"], "W_dec": m["dec"].T.contiguous(), "b_dec": m["mean"]}
    save_file(weights, folder / "sae.safetensors")
    about = {"expansion_factor": D_SAE // D_IN, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": D_IN}
    (folder / "cfg.json").write_text(json.dumps({**about, "multi_topk": False, **cfg}))
    if model:
        (folder.parent / "config.json").write_text(json.dumps({"model": model, "ctx_len": 2048}))
    return folder


@pytest.mark.parametrize("cfg", [{}, {"num_latents": D_SAE, "activation": "topk", "signed": False}])
def test_saes_of_sparsify(cfg: dict, tmp_path: Path):
    folder = converted(sparsify(tmp_path / "run" / "layers.2", **cfg), quiet)
    compare(folder, "sparsify", matrices())
    assert read_cfg(folder)["metadata"] == {"hook_name": "blocks.2.hook_resid_post", "model_name": "org/tiny"}


@pytest.mark.parametrize(
    ("trainer", "hook"),
    [
        ({"layer": 0}, "blocks.0.hook_resid_post"),
        ({"submodule_name": "resid_post_layer_1"}, "blocks.1.hook_resid_post"),
        ({"submodule_name": "model.layers.1"}, "blocks.1.hook_resid_post"),
        ({"submodule_name": "model.layers.1.input"}, "blocks.1.hook_resid_pre"),
    ],
)
def test_the_place_of_an_sae_of_dictionary_learning(trainer: dict, hook: str, tmp_path: Path):
    cfg = read_cfg(converted(dictionary(tmp_path / "d", "AutoEncoder", **trainer), quiet))
    assert cfg["metadata"]["hook_name"] == hook


def test_weights_in_bfloat16_are_computed_in_float32(tmp_path: Path):
    widened = {name: value.float() for name, value in matrices(dtype=torch.bfloat16).items()}
    compare(converted(dictionary(tmp_path / "a", "AutoEncoder", torch.bfloat16), quiet), "AutoEncoder", widened)
    compare(converted(sparsify(tmp_path / "layers.2", torch.bfloat16), quiet), "sparsify", widened)


@pytest.mark.parametrize("place", ["layers.7", "h.7", "transformer.h.7", "model.layers.7", "given"])
def test_the_place_of_an_sae_of_sparsify(place: str, tmp_path: Path):
    given = {"hook_name": "blocks.7.hook_resid_post"} if place == "given" else {}
    cfg = read_cfg(converted(sparsify(tmp_path / place, model=None, **given), quiet))
    assert cfg["metadata"] == {"hook_name": "blocks.7.hook_resid_post"}


def test_both_layouts_from_the_hub_and_what_is_fetched(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    dictionary(hub.snapshot("org/saes") / "resid_post_layer_2" / "trainer_0", "BatchTopKSAE")
    sparsify(hub.snapshot("org/sparse") / "layers.2")
    seen: list[dict] = []
    first = published("org/saes/resid_post_layer_2/trainer_0", seen.append, offline=True, notify=quiet)
    second = published("org/sparse/layers.2", seen.append, offline=True, notify=quiet)
    compare(first, "BatchTopKSAE", matrices())
    compare(second, "sparsify", matrices())
    assert [cfg["metadata"]["model_name"] for cfg in seen] == ["org/tiny", "org/tiny"]
    files = [
        [f["name"] for f in json.loads((folder / "source.json").read_text())["files"]] for folder in (first, second)
    ]
    trained = "resid_post_layer_2/trainer_0"
    assert files == [
        [f"{trained}/config.json", f"{trained}/ae.pt"],
        ["layers.2/cfg.json", "config.json", "layers.2/sae.safetensors"],
    ]
    with pytest.raises(TargetError, match=r"^org/saes: nothing/cfg\.json is not in the cache"):
        published("org/saes/nothing", seen.append, offline=True, notify=quiet)


def test_a_target_with_such_a_folder_and_its_check(tiny, tmp_path: Path):
    """The layer is the one that the folder names, and the pair is checked on it."""
    fits = load_file(tiny[1] / "sae_weights.safetensors")
    folder = sparsify(tmp_path / "layers.2", model=None, k=1)
    weights = {"encoder.weight": fits["W_enc"].T.contiguous(), "encoder.bias": fits["b_enc"]}
    save_file({**weights, "W_dec": fits["W_dec"], "b_dec": fits["b_dec"]}, folder / "sae.safetensors")
    done = geofilter("doctor", "--model", tiny[0], "--sae", folder)
    assert done.returncode == 0, done.stdout
    target = resolve(TargetChoice(str(tiny[0]), str(folder)), notify=quiet)
    assert target.choice.sae == str(folder) and target.sae_model == "unknown"
    assert resolve(target.choice, offline=True, notify=quiet).fingerprint == target.fingerprint


def test_saes_that_are_not_supported(tiny, tmp_path: Path):
    pickled = dictionary(tmp_path / "pickled", "AutoEncoder")
    (pickled / "ae.pt").write_bytes(pickle.dumps(Path))
    small = dictionary(tmp_path / "small", "AutoEncoder", dict_size=64)
    gated = dictionary(tmp_path / "gated", "GatedAutoEncoder")
    heads = dictionary(tmp_path / "heads", "AutoEncoder", submodule_name="attention_out_layer_2")
    lost = sparsify(tmp_path / "lost", model=None)
    mlp = sparsify(tmp_path / "layers.2.mlp", model=None)
    skip = sparsify(tmp_path / "layers.2", model=None, transcode=True)
    hint = 'add "hook_name": "blocks.N.hook_resid_post" to its cfg.json'
    for folder, text in [
        (pickled, f"{pickled / 'ae.pt'}: holds pickled code, which is never run; use an SAE of plain tensors"),
        (small, f"{small / 'ae.pt'}: encoder.weight has the shape (128, 32), not as its configuration says: 32 "
                "dimensions, 64 features"),
        (gated, f"{gated / 'config.json'}: dict_class GatedAutoEncoder is not supported; it must be "
                f"{', '.join(CLASSES)}"),
        (heads, f"{heads / 'config.json'}: reads attention_out_layer_2, which is not supported; it must be "
                "resid_post_layer_N or model.layers.N"),
        (lost, f"{lost}: the place of the model that it reads cannot be told from the name lost; {hint}"),
        (mlp, f"{mlp}: reads layers.2.mlp, a place within a block, which is not supported; use an SAE of a whole block "
              "(layers.N)"),
        (dictionary(tmp_path / "nowhere", "AutoEncoder", layer=None),
         f'{tmp_path / "nowhere" / "config.json"}: does not say what it reads; add "layer": N to its trainer'),
        (dictionary(tmp_path / "below", "AutoEncoder", layer=-1),
         f"{tmp_path / 'below' / 'config.json'}: layer is -1; it must be a whole number"),
        (skip, f"{skip / 'cfg.json'}: transcode = True is not supported; it must be false"),
    ]:  # fmt: skip
        assert scan_one(tmp_path, "--model", tiny[0], "--sae", folder) == (3, text)
