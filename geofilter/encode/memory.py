"""Too little memory: how it shows, and what to do about it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

from geofilter.encode.passes import Pass, Passes
from geofilter.errors import TargetError

Found = TypeVar("Found")


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


def halve(passes: Passes, read: Pass, error: BaseException, device: torch.device) -> None:
    """Go on in smaller passes, where memory was too little for one.

    Args:
        read: the pass that failed.

    Raises:
        TargetError: it was of one window.
        BaseException: the error, if it is another.
    """
    if not is_out_of_memory(error):
        raise error
    if not passes.halve(read):
        raise too_little(device) from None


def give_back() -> None:
    """Let the system have memory that is free again: both allocators keep it, and what comes next is of other sizes."""
    gc.collect()
    torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)


def each_pass(passes: Passes, compute: Callable[[Pass], Found], device: torch.device) -> Iterator[Found]:
    """What is computed of each pass, in smaller ones from where memory is too little.

    Raises:
        TargetError: it is too little for a single window.
    """
    for read in passes:
        try:
            found = compute(read)
        except (RuntimeError, MemoryError) as error:
            halve(passes, read, error, device)
            continue
        yield found
