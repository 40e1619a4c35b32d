"""What `geofilter targets` says that a scan needs, against the models at their published dimensions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import geofilter

from geofilter.config import Loading
from geofilter.encode.need import memory_needed
from geofilter.target.named import known
from geofilter.target.size import at_default, layers_needed, parameters

_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "intermediate_size")  # fmt: skip
_MOE = {"num_local_experts": 32}


def _linear(values: int) -> dict[str, Any]:
    return {"linear_num_key_heads": 16, "linear_num_value_heads": values, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "full_attention_interval": 4}  # fmt: skip


# As the models' config.json has them. Those of Qwen3.5-2B were not at hand in a file, only in words.
DIMENSIONS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "gemma-2-2b": ("Gemma2Config", (256000, 2304, 26, 8, 4, 256, 9216), {}),
    "gemma-2-9b": ("Gemma2Config", (256000, 3584, 42, 16, 8, 256, 14336), {}),
    "gemma-2-27b": ("Gemma2Config", (256000, 4608, 46, 32, 16, 128, 36864), {}),
    "gemma-3-270m": ("Gemma3TextConfig", (262144, 640, 18, 4, 1, 256, 2048), {}),
    "gemma-3-1b": ("Gemma3TextConfig", (262144, 1152, 26, 4, 1, 256, 6912), {}),
    "gemma-3-4b": ("Gemma3TextConfig", (262208, 2560, 34, 8, 4, 256, 10240), {}),
    "gemma-3-12b": ("Gemma3TextConfig", (262208, 3840, 48, 16, 8, 256, 15360), {}),
    "gemma-3-27b": ("Gemma3TextConfig", (262208, 5376, 62, 32, 16, 128, 21504), {}),
    "llama-3.1-8b": ("LlamaConfig", (128256, 4096, 32, 32, 8, 128, 14336), {}),
    "qwen2.5-7b-instruct": ("Qwen2Config", (152064, 3584, 28, 28, 4, 0, 18944), {}),
    "qwen3-1.7b": ("Qwen3Config", (151936, 2048, 28, 16, 8, 128, 6144), {}),
    "qwen3-8b": ("Qwen3Config", (151936, 4096, 36, 32, 8, 128, 12288), {}),
    "qwen3.5-2b": ("Qwen3_5TextConfig", (248320, 2048, 24, 8, 2, 256, 6144), _linear(16)),
    "qwen3.5-9b": ("Qwen3_5TextConfig", (248320, 4096, 32, 16, 4, 256, 12288), _linear(32)),
    "qwen3.5-27b": ("Qwen3_5TextConfig", (248320, 5120, 64, 24, 4, 256, 17408), _linear(48)),
    "gpt-oss-20b": ("GptOssConfig", (201088, 2880, 24, 64, 8, 64, 2880), _MOE),
    "smollm2-135m": ("LlamaConfig", (49152, 576, 30, 9, 3, 64, 1536), {}),
}

SAME = {"llama-3.1-8b-instruct": "llama-3.1-8b", "deepseek-r1-distill-llama-8b": "llama-3.1-8b"}
"""models of the dimensions of another; so are all that differ in the training stage alone"""


def dimensions(name: str) -> str:
    return SAME.get(name, name.removesuffix("-it").removesuffix("-base"))


def config_of(name: str) -> Any:
    import transformers as hf

    kind, numbers, more = DIMENSIONS[dimensions(name)]
    return getattr(hf, kind)(**{k: n for k, n in zip(_KEYS, numbers, strict=True) if n}, **more)


@pytest.mark.parametrize("name", list(known()))
def test_parameters_layers_and_heads_are_those_of_the_published_dimensions(name: str):
    """Counted by transformers on the meta device: nothing is allocated."""
    from transformers import AutoModel

    row, config = known()[name], config_of(name)
    needed = layers_needed(row["layer"], row["layers"])
    assert (row["layers"], row["heads"]) == (config.num_hidden_layers, config.num_attention_heads)
    assert row["d_in"] == config.hidden_size
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    whole = sum(p.numel() for p in model.parameters())
    beyond = sum(p.numel() for layer in model.layers[needed:] for p in layer.parameters())
    assert parameters(row, row["layers"]) == whole
    assert parameters(row, needed) == whole - beyond


@pytest.mark.parametrize("name", ["gemma-2-2b", "qwen3.5-9b"])
def test_it_is_what_doctor_reckons_with_the_model_s_own_files(name: str, tmp_path: Path, monkeypatch):
    config_of(name).save_pretrained(tmp_path)
    monkeypatch.setattr("geofilter.encode.need.choose_device", lambda _: torch.device("cuda"))
    row = known()[name]
    need = memory_needed(tmp_path, row["layer"], row["d_in"], row["features"], Loading("cpu", "bfloat16"), 1024)
    assert need == at_default(row)


def test_targets_hold_the_share_of_the_layers_and_the_memory():
    found = json.loads(geofilter("targets", "--json").stdout)
    gemma = found["gemma-2-2b"]["at_default"]
    assert gemma == {"layers": 14, "model": 3359900160, "encoder": 150994944, "working": 805306368, "libraries": 0}


def test_features_are_those_of_the_default_width():
    """By the width's name; of the SAEs whose names have no number it stands in their files alone."""
    for name, row in known().items():
        size = re.match(r"(\d+)([kx])(?![a-z0-9])", row["width"].replace("_", "-"))
        if size:
            units = (1000, 1024) if size[2] == "k" else (row["d_in"],)
            assert int(size[1]) in [row["features"] // unit for unit in units], name
        else:
            assert row["width"] in ("published", "400m_slimpajama_400m_openr1_math"), name
