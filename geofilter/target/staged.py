"""A model folder as transformers is shown it: what counts to the target's fingerprint, and nothing else.

A folder can hold more than its weights and tokenizer: an adapter, a distributed checkpoint (pickled), weights and
configurations of other names that config.json points at, code. And config.json can say how to load: which attention is
computed, by code that is fetched from the hub if it names some. So transformers reads a folder of links to the files
that are known, with a config.json and a tokenizer_config.json from which such keys are left out. Of a multimodal model
that config.json is its text decoder's.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError
from geofilter.target.decoder import is_nested, names_alone, prefix_of, text_config
from geofilter.target.hub import CONFIG, INDEX, TOKENIZER, WEIGHTS, link, shards_of, tensor_names
from geofilter.target.sae_folder import read_json

# Kernels of the hub are code. They are never asked for, and this keeps transformers from asking by itself; it reads
# the variable when it is first imported.
os.environ["USE_HUB_KERNELS"] = "NO"

_HOW = re.compile(
    r"_?(attn|experts)_implementation.*|torch_dtype|dtype|auto_map|trust_remote_code|use_cache|_commit_hash"
    r"|(_?name|.*_name)_or_path|configuration_files|transformers_weights|gguf_file|extra_files|(base_model_)?[tpe]p_plan"
    r"|distributed_config|device_map|use_kernels|kernel_config|allow_all_kernels|output_attentions"
    r"|output_hidden_states|return_dict|use_return_dict|torchscript|_?use_flash_attn.*|_?use_flash_attention.*"
    r"|_flash_attn.*|_use_sdpa"
)
"""keys of config.json, at any depth, that say how a model is loaded or run and not what it is"""
_FILES = re.compile(r".*_files?|auto_map|trust_remote_code|init_inputs|name_or_path|tokenizer_object")
"""keys of tokenizer_config.json that name other files or code"""
QUANTISED = ("awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "mxfp4")
"""formats of weights that are read; others are unknown, or read through code fetched from the hub"""


def without(found: Any, keys: re.Pattern[str]) -> Any:
    """JSON without the keys of that name, at any depth."""
    if isinstance(found, dict):
        return {key: without(value, keys) for key, value in found.items() if not keys.fullmatch(key)}
    return [without(value, keys) for value in found] if isinstance(found, list) else found


def quantisation(folder: Path) -> str:
    """In what format a model's weights are; empty for plain ones.

    Raises:
        TargetError: one that is not read, or a configuration that cannot be read.
    """
    config = read_json(folder / CONFIG, "get the model again")
    found = config.get("quantization_config")
    if found is None and is_nested(config):
        found = config["text_config"].get("quantization_config")
    if found is None:
        return ""
    kind = found.get("quant_method") if isinstance(found, dict) else None
    if kind not in QUANTISED:
        raise TargetError(
            f"{folder / CONFIG}: weights quantised as {json.dumps(kind)} are not read; give the model in its own "
            f"precision, or as {', '.join(QUANTISED[:-1])} or {QUANTISED[-1]}"
        )
    return str(kind)


@contextmanager
def staged(folder: Path, names: Sequence[str] = (), whole: bool = False) -> Iterator[Path]:
    """A folder with a model's configuration, without `_HOW`, and links to other files of it, for this block.

    Args:
        names: of the other files; those that are not there are passed over.
        whole: show the configuration of a multimodal model as it is, and not its text decoder's alone.

    Raises:
        TargetError: config.json cannot be read, or no temporary folder made.
        ValueError and others of transformers: config.json is of a multimodal model that it does not know.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="geofilter-", ignore_cleanup_errors=True)
    except OSError as error:
        raise TargetError(
            f"no temporary folder can be made ({error.strerror}); set TMPDIR to a folder that can be written"
        ) from None
    with made as scratch:
        try:
            config = without(read_json(folder / CONFIG, "get the model again"), _HOW)
            Path(scratch, CONFIG).write_text(json.dumps(config), "utf-8")
            if is_nested(config) and not whole:
                Path(scratch, CONFIG).write_text(json.dumps(without(text_config(Path(scratch)), _HOW)), "utf-8")
            for name in names:
                if not (folder / name).is_file():
                    continue
                if name == "tokenizer_config.json":
                    cleaned = without(read_json(folder / name, "get the tokenizer again"), _FILES)
                    Path(scratch, name).write_text(json.dumps(cleaned), "utf-8")
                else:
                    link((folder / name).resolve(), Path(scratch, name))
            yield Path(scratch)
        except (OSError, ValueError) as error:  # in transformers' words, which name the folder that it was shown
            raise ValueError(str(error).replace(scratch, str(folder))) from None


def staged_tokenizer(folder: Path) -> Any:
    """`staged`, with the tokenizer's files; its kind may go by the whole model's."""
    return staged(folder, TOKENIZER, whole=True)


def staged_model(folder: Path) -> Any:
    """`staged`, with the weights: one file, or those that an index names.

    Raises:
        TargetError: the index is damaged, or names files outside of the folder.
    """
    weights = (WEIGHTS,) if (folder / WEIGHTS).is_file() else (INDEX, *shards_of(folder))
    return staged(folder, (*weights, "generation_config.json"))


def names_for_decoder(folder: Path) -> dict[str, str]:
    """Of a multimodal model, what the names of the text decoder's tensors become when it is loaded by itself.

    Returns:
        patterns and what stands in their place, for transformers; none for a model that is a decoder itself.

    Raises:
        TargetError: its weights cannot be read, or hold no text decoder.
    """
    if not is_nested(read_json(folder / CONFIG, "get the model again")):
        return {}
    prefix = prefix_of(tensor_names(folder))
    if prefix is None:
        raise TargetError(f"{folder}: its weights hold no table of token embeddings, so no text decoder; get it again")
    return names_alone(prefix)
