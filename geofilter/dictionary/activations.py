"""The activations an SAE is trained on: the model up to its hook, over windows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from geofilter.dictionary.corpus import Windows
from geofilter.encode.memory import each_pass, too_little
from geofilter.encode.model import ResidualModel
from geofilter.encode.need import token_budget
from geofilter.encode.passes import Pass
from geofilter.encode.reader import outlier_free
from geofilter.errors import TargetError


@torch.inference_mode()
def activations(
    model: ResidualModel, windows: Windows, numbers: Sequence[int], told: Callable[[int], None]
) -> torch.Tensor:
    """Vectors (n_tokens, d_in) at the model's hook, in its dtype and on the hook's device, of the marked tokens.

    Special and template tokens are not marked; of those that are, outlier norms are left out.

    Args:
        numbers: of the windows that are read.
        told: the tokens read, after each batch.

    Raises:
        TargetError: vectors that are not finite, or not enough memory.
    """
    read = [windows.window(n) for n in numbers]
    out: torch.Tensor | None = None
    n = 0
    finite = torch.ones((), dtype=torch.bool, device=model.hook_device)  # asked back once, at the end

    def kept(each: Pass) -> tuple[int, torch.Tensor]:
        x = model.responses(each)[model.layers[-1]]
        return len(x), x[outlier_free(x, each.counts)]

    passes = model.passes(read, token_budget(model.device))
    try:
        for n_read, found in each_pass(passes, kept, model.device):
            if out is None:
                n_all = sum(sum(w.mask) for w in read)
                out = torch.empty((n_all, found.shape[-1]), dtype=found.dtype, device=found.device)
            out[n : n + len(found)] = found
            finite &= found.isfinite().all()
            n += len(found)
            told(n_read)
    except torch.OutOfMemoryError:
        raise too_little(model.device) from None
    assert out is not None
    if not n or not finite:
        name = str(model.dtype).removeprefix("torch.")
        raise TargetError(
            f"{model.path}: layer {model.layers[-1]} is not finite in {name}; use --dtype float32, or bfloat16"
        )
    return out[:n]
