"""Too little memory: how it shows, and what to do about it."""

from __future__ import annotations

import torch

from geofilter.errors import TargetError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def too_little(device: torch.device | str) -> TargetError:
    """The error, with remedies."""
    return TargetError(
        f"{device}: not enough memory; free it, use --dtype bfloat16, --sae-dtype bfloat16, a smaller --max-tokens, "
        "several GPUs (--device-map auto) or --device cpu; geofilter doctor estimates the need"
    )
