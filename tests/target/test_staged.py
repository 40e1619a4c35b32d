"""What a model folder may decide of how it is read: nothing, but what its weights, names and sizes are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import quiet
from safetensors.torch import load_file, save_file

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel
from geofilter.errors import TargetError
from geofilter.target.resolve import resolve
from geofilter.target.tokenizer import tokenizer_of

IDS = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    return shutil.copytree(tiny[0], tmp_path / "model")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def read(path: Path) -> torch.Tensor:
    model = ResidualModel(path, [2], Loading("cpu", "float32"))
    assert model.model.config._attn_implementation == "sdpa"
    return model.residuals(IDS, torch.ones_like(IDS))[2]


def fingerprint(path: Path, sae: Path) -> str:
    return resolve(TargetChoice(str(path), str(sae)), notify=quiet).fingerprint


@pytest.mark.parametrize(
    "said",
    [
        {"attn_implementation": "eager"}, {"_attn_implementation": "eager"},
        {"attn_implementation": "flash_attention_2"}, {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel:run"}, {"_attn_implementation_internal": "flex_attention"},
        {"attn_implementation": {"": "paged|eager"}}, {"experts_implementation": "evil/kernel"},
        {"dtype": "float16"}, {"torch_dtype": "bfloat16"}, {"use_cache": 3}, {"output_attentions": True},
        {"auto_map": {"AutoConfig": "evil/repo--code.Config", "AutoModel": "code.Model"}}, {"trust_remote_code": True},
        {"_commit_hash": "../x"}, {"configuration_files": ["config.4.0.0.json"]}, {"return_dict": False},
        {"transformers_weights": "other.safetensors"}, {"torchscript": True}, {"output_hidden_states": True},
        {"distributed_config": {"tp_size": 2}}, {"base_model_tp_plan": {"layers.*": "colwise"}},
        {"gguf_file": "x.gguf"},
    ],
    ids=str,
)  # fmt: skip
def test_how_a_configuration_says_to_load_changes_nothing(said: dict[str, Any], folder: Path, tiny):
    before = read(tiny[0])
    weights = load_file(folder / "model.safetensors")
    (folder / "config.4.0.0.json").write_text(
        json.dumps({**json.loads((folder / "config.json").read_text()), "rms_norm_eps": 0.5})
    )
    change(folder / "config.json", **said)
    torch.testing.assert_close(read(folder), before, rtol=0, atol=0)
    save_file({k: v + 1 for k, v in weights.items()}, folder / "other.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(read(folder), before, rtol=0, atol=0)


def test_a_distributed_checkpoint_beside_the_weights_is_not_read(folder: Path, tiny):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, folder / "shard-00000-model-00001-of-00001.safetensors")
    (folder / ".metadata").write_bytes(b"")
    torch.testing.assert_close(read(folder), read(tiny[0]), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["eetq", "hqq", "gguf", "torchao", "evil", None, 3, ["awq"]])
def test_weights_in_a_format_that_is_not_read(kind: Any, folder: Path):
    change(folder / "config.json", quantization_config={"quant_method": kind})
    with pytest.raises(TargetError, match=r"weights quantised as .* are not read; give the model"):
        read(folder)


def test_a_configuration_that_is_no_object_is_named(folder: Path):
    for text in ("[]", "[" * 100_000, '{"a": ', "\xff"):
        (folder / "config.json").write_text(text, "latin-1")
        with pytest.raises(TargetError, match=r"config\.json"):
            read(folder)


def test_a_tokenizer_s_configuration_names_no_other_files(folder: Path, tmp_path: Path):
    before = tokenizer_of(folder)("the answer").input_ids
    other = json.loads((folder / "tokenizer.json").read_text())
    other["pre_tokenizer"], other["model"]["merges"] = None, []
    for place in (tmp_path / "other.json", folder / "tokenizer.4.0.0.json"):
        place.write_text(json.dumps(other))
    change(
        folder / "tokenizer_config.json", tokenizer_file=str(tmp_path / "other.json"), vocab_file="/etc/passwd",
        fast_tokenizer_files=["tokenizer.4.0.0.json"], init_inputs=[str(tmp_path / "other.json")],
        auto_map={"AutoTokenizer": ["evil/repo--code.T", None]},
    )  # fmt: skip
    assert tokenizer_of(folder)("the answer").input_ids == before


def shard(folder: Path) -> dict[str, str]:
    """Put a model's weights into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: weights[k] for k in keys}, folder / file, metadata={"format": "pt"})
    placed = {key: file for file, keys in parts.items() for key in keys}
    index(folder, placed)
    return placed


def index(folder: Path, placed: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_an_index_names_plain_files_of_its_folder(folder: Path, tiny, tmp_path: Path):
    placed = shard(folder)
    torch.testing.assert_close(read(folder), read(tiny[0]), rtol=0, atol=0)
    before = fingerprint(folder, tiny[1])
    first = next(iter(placed))
    outside = shutil.copy(folder / placed[first], tmp_path / "x.safetensors")
    for elsewhere in (
        "../x.safetensors",
        str(outside),
        "a/../../x.safetensors",
        ".x.safetensors",
        "x.bin",
        3,
        None,
    ):
        index(folder, {**placed, first: elsewhere})
        with pytest.raises(TargetError, match="it names no weight files, or some outside of the folder"):
            fingerprint(folder, tiny[1])
    for wrong in ([], {}, 3, None, "x", ["x.safetensors"]):
        index(folder, wrong)
        with pytest.raises(TargetError, match="it names no weight files"):
            fingerprint(folder, tiny[1])
    index(folder, {**placed, first: "x.safetensors"})
    with pytest.raises(TargetError, match=r"no such file, but model\.safetensors\.index\.json names it"):
        fingerprint(folder, tiny[1])
    (folder / "x.safetensors").symlink_to(outside)
    with pytest.raises(TargetError, match="outside of the folder; put the file itself there"):
        fingerprint(folder, tiny[1])
    (folder / "x.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(TargetError, match="is damaged"):
        fingerprint(folder, tiny[1])
    index(folder, placed)
    assert fingerprint(folder, tiny[1]) == before


def test_all_that_an_index_names_is_in_the_fingerprint(folder: Path, tiny):
    placed = shard(folder)
    # The name of an adapter's weights, which are left out else.
    second = "model-00002-of-00002.safetensors"
    (folder / second).rename(folder / "adapter_model.safetensors")
    placed = {k: "adapter_model.safetensors" if v == second else v for k, v in placed.items()}
    index(folder, placed)
    seen = {fingerprint(folder, tiny[1])}
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    seen.add(fingerprint(folder, tiny[1]))
    # Two files with the same tensors: which is read says the index.
    shutil.copy(folder / "adapter_model.safetensors", folder / "b.safetensors")
    seen.add(fingerprint(folder, tiny[1]))
    index(folder, {k: "b.safetensors" if v == "adapter_model.safetensors" else v for k, v in placed.items()})
    seen.add(fingerprint(folder, tiny[1]))
    assert len(seen) == 4


def test_a_snapshot_of_the_hub_s_cache_is_links_to_its_blobs(folder: Path, tiny, tmp_path: Path):
    placed = shard(folder)
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots" / "c").mkdir(parents=True)
    for path in folder.iterdir():
        shutil.move(path, repo / "blobs" / f"blob-{path.name}")
        (repo / "snapshots" / "c" / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    snapshot = repo / "snapshots" / "c"
    assert fingerprint(snapshot, tiny[1])
    torch.testing.assert_close(read(snapshot), read(tiny[0]), rtol=0, atol=0)
    name = next(iter(placed.values()))
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(shutil.copy(repo / "blobs" / f"blob-{name}", tmp_path / "y.safetensors"))
    with pytest.raises(TargetError, match="outside of the folder"):
        fingerprint(snapshot, tiny[1])
