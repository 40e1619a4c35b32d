"""The target model up to its hook: token ids in, residual stream out.

Only the layers up to the hook are built (`num_hidden_layers`), so neither the rest of the network nor
the language-model head is ever allocated. The residual is taken by a forward hook on the decoder layer:
`hidden_states[-1]` is not it, since the final norm has been applied to that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geofilter.errors import TargetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on the CPU.

    Raises:
        TargetError: no such dtype.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise TargetError(f"--dtype {name}: unknown; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def count_layers(path: Path) -> int:
    """Decoder layers in a model folder."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(path).num_hidden_layers)


class ResidualModel:
    """A Hugging Face decoder, built up to its highest hooked layer.

    Args:
        path: local model folder (config.json, safetensors, tokenizer).
        layers: 0-based decoder layers whose output (`blocks.L.hook_resid_post`) is read.
    """

    def __init__(self, path: Path, layers: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # the load report names the layers left out on purpose
        self.layers = tuple(sorted(layers))
        self.device = device
        try:
            available = count_layers(path)
            if self.layers[-1] >= available:
                raise TargetError(f"{path}: layer {self.layers[-1]} is not in the model; choose 0 to {available - 1}")
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
            self.model: Any = AutoModel.from_pretrained(
                path, num_hidden_layers=self.layers[-1] + 1, dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise TargetError(f"{path}: not a loadable model ({str(error).splitlines()[0]})") from None
        if not self.tokenizer.is_fast:
            raise TargetError(f"{path}: the tokenizer gives no offsets; a fast tokenizer (tokenizer.json) is needed")
        self.model.to(device).eval()
        self._seen: dict[int, torch.Tensor] = {}
        for layer in self.layers:
            self.model.layers[layer].register_forward_hook(self._keep(layer))

    def _keep(self, layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._seen[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def pad_id(self) -> int:
        """A token id to pad with; masked everywhere, so any valid id serves."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    @torch.inference_mode()
    def residuals(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[int, torch.Tensor]:
        """Residual stream after each hooked layer, (B, T, d_in) in the model's dtype, keyed by layer."""
        self.model(
            input_ids=input_ids.to(self.device),
            attention_mask=attention_mask.to(self.device),
            use_cache=False,
        )
        seen, self._seen = self._seen, {}
        return seen
