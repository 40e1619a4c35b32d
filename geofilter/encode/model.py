"""The target model up to its hook: token ids in, the hook's vectors out.

Only the layers up to the hook are built (`num_hidden_layers`), so neither the rest of the network nor
the language-model head is ever allocated. The residual stream is taken by a forward hook on the decoder
layer: `hidden_states[-1]` is not it, since the final norm has been applied to that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geofilter import config
from geofilter.arrays import I64
from geofilter.config import Loading
from geofilter.encode.adapter import merge
from geofilter.encode.attention import Held, attending
from geofilter.encode.blocks import Runs, decoder_layers
from geofilter.encode.forest import NOTHING, Forest
from geofilter.encode.memory import too_little
from geofilter.encode.passes import Pass, Passes
from geofilter.encode.probe import reads_forests
from geofilter.encode.tokens import Encoded, Tokens, unknown_token
from geofilter.errors import TargetError, first_line
from geofilter.rows.row_error import RowError
from geofilter.target.decoder import layers_to_load, steady_length
from geofilter.target.hooks import Hook
from geofilter.target.pairing import model_config
from geofilter.target.staged import names_for_decoder, quantisation, staged_model
from geofilter.target.tokenizer import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OVERFLOWING = ("gemma3_text", "gemma3n_text")
"""types of models whose activations float16 cannot hold"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        TargetError: the named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise TargetError(f"--device {name}: not available here; use --device auto or cpu") from None
    return device


def computes_on_gpu(loading: Loading) -> bool:
    """Whether a model that is loaded so computes on a CUDA device."""
    return choose_device(loading.device).type == "cuda"


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on the CPU; other names are those of `config.Loading`."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]


def refuse_overflow(model_type: str, dtype: torch.dtype, where: object) -> None:
    """Gemma 3's residual stream grows beyond 65,504, the largest number of float16.

    Args:
        where: the model, for the message.

    Raises:
        TargetError: it is a Gemma 3, to be read in float16.
    """
    if dtype == torch.float16 and model_type in _OVERFLOWING:
        raise TargetError(f"{where}: Gemma 3's numbers are too large for float16; use --dtype bfloat16 or float32")


def resolved_dtype(loading: Loading) -> str:
    """Name of the dtype a model is read in: float32, bfloat16 or float16."""
    return str(choose_dtype(loading.dtype, choose_device(loading.device))).removeprefix("torch.")


def count_layers(path: Path) -> int:
    """Decoder layers in a model folder."""
    return int(model_config(path).num_hidden_layers)


def parameters(path: Path, layers: int) -> int:
    """Parameters that are loaded to read the first `layers` decoder layers, counted without allocating any."""
    from transformers import AutoModel

    config = model_config(path)
    config.num_hidden_layers = layers_to_load(config, layers)
    config.quantization_config = None
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModel.from_config(config, trust_remote_code=False).parameters())


class ResidualModel:
    """A Hugging Face decoder, built up to its highest hooked layer.

    Args:
        path: local model folder (config.json, safetensors, tokenizer).
        layers: 0-based decoder layers that are read.
        kind: what is read of them, see `hooks`.
        decoder: a decoder with all layers, of this folder's model but fine-tuned perhaps, to read instead of loading
            one; it stays in its dtype and on its device.
        adapter: folder of a LoRA adapter to merge into the model that is loaded.

    Raises:
        TargetError: not a loadable model, weights missing from the files, a layer or hook it does not have, or
            not enough memory on the GPU.
    """

    def __init__(
        self,
        path: Path,
        layers: Sequence[int],
        loading: Loading | None = None,
        kind: str = "hook_resid_post",
        decoder: Any = None,
        adapter: Path | None = None,
    ) -> None:
        loading = loading or Loading()
        self.path = path
        self.layers = tuple(sorted(layers))
        self.kind = kind
        device = choose_device(loading.device)
        self.dtype = choose_dtype(loading.dtype, device)
        available = self._load_parts(path, loading)
        if self.layers[-1] >= available:
            raise TargetError(f"{path}: layer {self.layers[-1]} is not in the model; choose 0 to {available - 1}")
        self.model: Any = decoder
        if decoder is None:
            from transformers import AutoModel

            built = layers_to_load(model_config(path), self.layers[-1] + 1)
            self.model = pretrained(AutoModel, path, loading, adapter, num_hidden_layers=built)
        self.device: torch.device = self.model.get_input_embeddings().weight.device
        self._seen: dict[int, torch.Tensor] = {}
        blocks = decoder_layers(self.model, path)
        if decoder is None:
            del blocks[self.layers[-1] + 1 :]  # of a model that had to be loaded with all of them
        self._runs = Runs(blocks[: self.layers[-1] + 1])
        for layer in self.layers:
            self._attach(blocks[layer], layer)
        # Where the highest hooked layer puts its output; with a device map that need not be the first device.
        self.hook_device: torch.device = next(blocks[self.layers[-1]].parameters()).device
        if "meta" in (self.device.type, self.hook_device.type):
            raise TargetError(
                f"{path}: --device-map {loading.device_map} found no room for all layers on the GPUs and left some on "
                "the CPU or on disk; use more GPUs, or --device cpu"
            )
        self._steady = steady_length(self.model.config.get_text_config(decoder=True))
        self._held: tuple[I64, Held] = NOTHING, {}
        """tokens of the last pass with which the next one begins, and their keys and values"""
        self.forests = self.device.type == "cpu" and reads_forests(
            lambda read: self.responses(read)[self.layers[-1]], embedded_tokens(self.model)
        )
        """whether passes may be laid out as forests, see `passes`"""

    def _load_parts(self, path: Path, loading: Loading) -> int:
        """Tokenizer and number of layers."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # the load report names the layers left out on purpose; `_load` reads it
        try:
            available = count_layers(path)
            self.tokenizer = tokenizer_of(path)
        except Exception as error:  # a damaged tokenizer.json raises whatever its parser does
            raise TargetError(
                f"{path}: its configuration or tokenizer cannot be read ({first_line(error)}); get the model again"
            ) from None
        if not self.tokenizer.is_fast:
            raise TargetError(f"{path}: the tokenizer gives no offsets; a fast tokenizer (tokenizer.json) is needed")
        return available

    def _attach(self, block: torch.nn.Module, layer: int) -> None:
        # Not `self`: hooks that hold the model would keep it, and its memory, from going when it is done with.
        seen = self._seen

        def keep(value: Any) -> None:
            seen[layer] = value[0] if isinstance(value, tuple) else value

        def before(_module: Any, args: Any, kwargs: Any) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def after(_module: Any, _args: Any, output: Any) -> None:
            keep(output)

        if self.kind == "hook_resid_post":
            block.register_forward_hook(after)
        elif self.kind == "hook_resid_pre":
            block.register_forward_pre_hook(before, with_kwargs=True)
        else:
            module = block.get_submodule(Hook(layer, self.kind).sublayer(self.model.config.model_type, self.path))
            if self.kind == "attn.hook_z":
                module.register_forward_pre_hook(before, with_kwargs=True)
            else:
                module.register_forward_hook(after)

    def passes(self, windows: Sequence[Tokens], budget: int) -> Passes:
        """Divide windows into passes of about `budget` tokens, laid out as suits the model."""
        return Passes(windows, budget, self.pad_id, forests=self.forests, steady=self._steady)

    @property
    def pad_id(self) -> int:
        """See `pad_id`."""
        return pad_id(self.tokenizer, self.model)

    def unknown_token(self, row: Encoded) -> RowError | None:
        """What is wrong with a row that holds a token the model has no embedding for; None when it holds none."""
        return unknown_token(row, self.tokenizer, embedded_tokens(self.model))

    @torch.inference_mode()
    def residuals(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[int, torch.Tensor]:
        """Vectors at the hook of each layer read, (B, T, d_in) in the model's dtype, keyed by layer.

        Raises:
            TargetError: the model runs layers in loops.
        """
        return self._run(input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device))

    @torch.inference_mode()
    def responses(self, read: Pass) -> dict[int, torch.Tensor]:
        """Vectors (n, d_in) at the hook of each layer read, of the pass's response tokens, keyed by layer.

        Raises:
            TargetError: the model runs layers in loops.
        """
        # Before the model runs: a copy to the GPU waits until all that was queued there is done.
        at, ids = read.response.to(self.hook_device), read.input_ids.to(self.device)
        if read.forest is None:
            assert read.attention_mask is not None
            found = self._run(input_ids=ids, attention_mask=read.attention_mask.to(self.device))
        else:
            found = self._run_forest(ids, read.forest, read.keep.to(self.device))
        return {layer: x.flatten(0, 1)[at.to(x.device)] for layer, x in found.items()}

    def _run_forest(self, ids: torch.Tensor, forest: Forest, keep: torch.Tensor) -> dict[int, torch.Tensor]:
        """Run on a forest, whose held tokens the pass before has kept.

        Args:
            keep: (k,) places of the tokens to be kept for the next pass.
        """
        before, held = self._held
        if not np.array_equal(before[: len(forest.held)], forest.held):
            raise RuntimeError("the passes of two readings are mixed")
        position = torch.from_numpy(forest.position).unsqueeze(0).to(self.device)
        with attending(self.model.config.get_text_config(decoder=True), forest, held, keep) as kept:
            found = self._run(input_ids=ids, position_ids=position)
        if not kept.keys() >= set(range(self.layers[-1] + 1)):
            raise RuntimeError("a layer mixes tokens by other means than the attention that was given")
        self._held = np.concatenate([forest.held, forest.ids])[keep.cpu()], kept
        return found

    def _run(self, **inputs: torch.Tensor) -> dict[int, torch.Tensor]:
        self._runs.clear()
        self._seen.clear()  # of a pass that failed
        self.model(**inputs, use_cache=False)
        self._runs.refuse_loops(self.path)
        seen = dict(self._seen)
        self._seen.clear()
        return seen


def embedded_tokens(model: Any) -> int:
    """How many tokens a model has an embedding for."""
    return len(model.get_input_embeddings().weight)


def pad_id(tokenizer: PreTrainedTokenizerBase, model: Any) -> int:
    """A token id to pad with; masked everywhere, so any valid id serves."""
    pad = tokenizer.pad_token_id
    return int(pad) if pad is not None and pad < embedded_tokens(model) else 0


def pretrained(kind: Any, path: Path, loading: Loading, adapter: Path | None = None, **options: Any) -> Any:
    """A model from a folder, in evaluation mode, straight onto its device without a copy in main memory first.

    Args:
        kind: transformers' class: AutoModel, AutoModelForCausalLM.
        adapter: folder of a LoRA adapter to merge into it; one that lies in `path` is not read by itself.
        options: passed to its `from_pretrained`.

    Raises:
        TargetError: not a loadable model, weights missing from its files, an adapter that does not fit, or not enough
            memory on the GPU.
    """
    from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

    device = choose_device(loading.device)
    options["device_map"] = loading.device_map or {"": device}
    config = model_config(path)
    refuse_overflow(config.model_type, choose_dtype(loading.dtype, device), path)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        # Gemma 2's soft cap on attention scores: some versions of transformers choose sdpa, which leaves it out.
        options["attn_implementation"] = "eager"
    # Widened always: the packed kernels are code that is fetched from the hub, they read other numbers, and which of
    # the two happens would depend on what else is installed.
    if (kind_of_weights := quantisation(path)) in ("mxfp4", "fp8"):
        packed = Mxfp4Config if kind_of_weights == "mxfp4" else FineGrainedFP8Config
        options["quantization_config"] = packed(dequantize=True)
    try:
        with staged_model(path) as folder:
            model, report = kind.from_pretrained(
                folder, dtype=choose_dtype(loading.dtype, device), use_safetensors=True, local_files_only=True,
                trust_remote_code=False, output_loading_info=True, key_mapping=names_for_decoder(path), **options,
            )  # fmt: skip
    except torch.OutOfMemoryError:
        raise too_little(device) from None
    except TargetError:
        raise
    except Exception as error:  # whatever transformers raises on files that are not what they should be
        raise TargetError(f"{path}: not a loadable model ({first_line(error)})") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise TargetError(
            f"{path}: {len(missing)} weights are missing from its files and would be random "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); get the model again"
        )
    if adapter is not None:
        try:
            merge(model, adapter)
        except torch.OutOfMemoryError:
            raise too_little(device) from None
    return model.eval()


def precision_here(loading: Loading) -> str:
    """`config.precision`, with what `auto` is on this machine."""
    return config.precision(resolved_dtype(loading), loading.sae_dtype)
