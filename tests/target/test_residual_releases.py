"""Every residual SAE that sae-lens lists of the models that have many: its configuration fits the model it is of."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers import family_saes as saes
from helpers.command import quiet, use_hub
from helpers.families import D_IN, Hub

from geofilter.errors import TargetError
from geofilter.target.pairing import ModelConfig
from geofilter.target.releases import published

LAYERS = {"270m": 18, "1b": 26, "4b": 34, "12b": 48, "27b": 62, "Qwen3-1.7B": 28, "Qwen3-8B": 36, "Qwen3-30B-A3B": 48,
          "Qwen3.5-2B": 24, "Qwen3.5-9B": 32, "Qwen3.5-27B": 64, "Qwen3.5-35B-A3B": 40}  # fmt: skip

KINDS = {"gemma_3": 20, "qwen_scope": 14, "dictionary_learning_1": 1, "llama_scope_r1_distill": 1, "deepseek_r1": 1}
"""releases by sae-lens' loader"""

_NAMES = re.compile(
    r"gemma-scope-2-.*-res(-all)?|qwen-scope-.*|qwen2\.5-.*-andyrdt|llama_scope_r1_distill|deepseek-r1-.*"
)


@cache
def releases() -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return {name: info for name, info in get_pretrained_saes_directory().items() if _NAMES.fullmatch(name)}


def config_of(model: str) -> Any:
    """The model's configuration as the hub has it: its type, its nesting and its layers; other sizes are small."""
    import transformers as hf
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config
    from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeConfig

    name = model.rsplit("/", 1)[-1]
    size = next((s for s in (name.removesuffix("-Base"), *name.split("-")) if s in LAYERS), "")
    text: dict[str, Any] = {"hidden_size": D_IN, "num_hidden_layers": LAYERS.get(size, 32), "intermediate_size": 64,
                            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    if name.startswith("gemma-3"):
        return hf.Gemma3TextConfig(**text) if size in ("270m", "1b") else hf.Gemma3Config(text_config=text)
    if name.startswith("Qwen3.5"):
        return (Qwen3_5MoeConfig if "A3B" in name else Qwen3_5Config)(text_config=text)
    if name.startswith("Qwen3"):
        return (hf.Qwen3MoeConfig if "A3B" in name else hf.Qwen3Config)(**text)
    if name.startswith("Qwen2.5"):
        return hf.Qwen2Config(**{**text, "num_hidden_layers": 28})
    return hf.LlamaConfig(**text)


def put(hub: Hub, release: str, sae_id: str, info: Any) -> None:
    """The SAE's files, random ones; only what stands before the weights is read."""
    sae, layer = saes.random_sae(), int(re.search(r"\d+", sae_id.removeprefix("blocks."))[0])
    if info.conversion_func == "gemma_3":
        saes.put_gemma_scope_2(hub, release, sae_id, sae)
    elif info.conversion_func == "qwen_scope":
        saes.put_qwen_scope(hub, release, sae_id, sae)
    elif info.conversion_func == "dictionary_learning_1":
        saes.put_dictionary_learning(hub, release, sae_id, layer, sae, info.model)
    elif info.conversion_func == "llama_scope_r1_distill":
        saes.put_llama_scope_r1(hub, release, sae_id, layer, sae)
    else:
        saes.put_deepseek_r1(hub, release, sae_id, sae)


class Passed(TargetError):
    """The check has been passed: nothing more is wanted."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("releases")


def look_at(hub: Hub, release: str, info: Any) -> None:
    folder = hub.snapshot(info.model)
    if not (folder / "config.json").is_file():
        config_of(info.model).save_pretrained(folder)
    model = ModelConfig(info.model, folder, named=True, allow_other=False)
    for sae_id in {min(info.saes_map), max(info.saes_map)}:
        put(hub, release, sae_id, info)
        found: list[Any] = []

        def check(cfg: dict[str, Any], found: list[Any] = found, spec: str = f"{release}/{sae_id}") -> None:
            found.append((cfg, *model.check(cfg, spec)))
            raise Passed(spec)

        with pytest.raises(Passed):
            published(f"{release}/{sae_id}", check, offline=True, notify=quiet)
        (cfg, hook, notes), at = found[0], int(re.search(r"\d+", sae_id.removeprefix("blocks."))[0])
        assert (str(hook), notes) == (f"blocks.{at}.hook_resid_post", ())
        assert cfg["metadata"]["model_name"].rsplit("/", 1)[-1] == info.model.rsplit("/", 1)[-1]


def test_all_of_them_are_looked_at():
    kinds = [info.conversion_func for info in releases().values()]
    assert {kind: kinds.count(kind) for kind in kinds} == KINDS


@pytest.mark.parametrize("kind", list(KINDS))
def test_their_configuration_fits_their_model(kind: str, place: Path, monkeypatch):
    """Up to where the weights would be fetched, of the first and the last layer."""
    hub = Hub(place / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(place / "cache"))
    for release, info in releases().items():
        if info.conversion_func == kind:
            look_at(hub, release, info)
