"""What stands in front of a GGUF file's weights: its metadata, and where each tensor lies.

The file may be a stranger's: every size that it names is held against the bytes that are there before anything is made
of that size, so that a header that lies costs neither memory nor time. What is read here is what the `gguf` package
and transformers read again, of the tokenizer for instance, and they trust it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from geofilter.errors import TargetError
from geofilter.files import ordinary

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""bytes to which the weights are aligned where the file says nothing else"""
MOST_HEADER = 1 << 27
"""bytes in front of the weights; real vocabularies take up to 20 MB"""
MOST_ELEMENTS = 1 << 22
"""of all arrays together; a vocabulary of 262,144 tokens has some 1.3 million with its merges"""
MOST_ENTRIES = 1 << 16
"""tensors, and keys"""
MOST_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_SPLIT = "split.count"
AGAIN = "get the file again"


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies, and in which format."""

    name: str
    shape: tuple[int, ...]
    """rows first, as torch has it"""
    kind: str
    """F32, BF16, Q4_K, ..."""
    start: int
    """in the file"""
    size: int
    """bytes"""

    @property
    def count(self) -> int:
        """Weights in it."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A file's metadata and tensors."""

    path: Path
    metadata: dict[str, Any]
    """texts, numbers, truth values, numpy arrays of numbers, and lists of texts"""
    tensors: dict[str, Tensor]

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        found = self.metadata.get(key)
        return found if isinstance(found, str) else ""


def is_gguf(path: Path) -> bool:
    """True for a file that begins as a GGUF file does, or is named as one."""
    if path.suffix.lower() == ".gguf":
        return path.is_file()
    try:
        with ordinary(path).open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def gguf_files(folder: Path) -> list[Path]:
    """Files of a folder that are named as GGUF files."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())


def read_header(path: Path) -> Header:
    """Read all that stands in front of the weights, which are not touched.

    Raises:
        TargetError: the file cannot be read, is no GGUF file, is cut off, or contradicts itself.
    """
    try:
        with ordinary(path).open("rb") as handle:
            return _Reader(path, handle).header()
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None


class _Reader:
    """Reads forward, never more than there is."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self._path, self._handle = path, handle
        self._size = path.stat().st_size
        self._at = 0
        self._elements = 0

    def header(self) -> Header:
        start = self._take(4) if self._size >= 4 else b""
        if start == MAGIC[::-1]:
            raise self._error("is a GGUF file for big-endian machines; get one for little-endian ones")
        if start != MAGIC:
            raise self._error("is not a GGUF file, though it is named like one; " + AGAIN)
        version = self._number("<u4")
        if version not in VERSIONS:
            raise self._error(f"is of GGUF version {version}, and 2 and 3 are read; convert the model anew")
        tensors, keys = self._number("<u8"), self._number("<u8")
        if max(tensors, keys) > MOST_ENTRIES:
            raise self._damaged(f"it claims {tensors:,} tensors and {keys:,} keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"it says {key[:80]!r} twice")
            metadata[key] = self._value(self._number("<u4"))
        self._refuse_parts(metadata)
        return Header(self._path, metadata, self._tensors(tensors, metadata.get("general.alignment", ALIGNMENT)))

    def _refuse_parts(self, metadata: dict[str, Any]) -> None:
        count = metadata.get(_SPLIT)
        if isinstance(count, int) and count > 1:
            whole = self._path.name.replace(f"-of-{count:05}", "").replace("-00001", "")
            raise self._error(
                f"is one of {count} parts of a model; join them by llama.cpp's llama-gguf-split --merge FIRST_PART "
                f"{whole} and give the whole file"
            )

    def _tensors(self, count: int, alignment: Any) -> dict[str, Tensor]:
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._damaged(f"its general.alignment is {alignment}")
        entries = []
        for _ in range(count):
            name, dimensions = self._string(), self._number("<u4")
            if dimensions > MOST_DIMENSIONS:
                raise self._damaged(f"tensor {name[:80]!r} has {dimensions} dimensions")
            shape = tuple(self._number("<u8") for _ in range(dimensions))
            entries.append((name, shape, self._number("<u4"), self._number("<u8")))
        data = -(-self._at // alignment) * alignment
        found: dict[str, Tensor] = {}
        for name, shape, kind, offset in entries:
            if name in found:
                raise self._damaged(f"it has the tensor {name[:80]!r} twice")
            known, size = self._stored(name, shape, kind)
            found[name] = Tensor(name, shape[::-1], known, data + offset, size)
        # From one stretch of a small file any number of tensors could be made otherwise.
        end = data
        for tensor in sorted(found.values(), key=lambda t: (t.start, t.size)):
            if tensor.start < end:
                raise self._damaged(f"tensor {tensor.name[:80]!r} lies on top of another")
            end = tensor.start + tensor.size
        if end > self._size:
            raise self._error(f"is cut off: it has {self._size:,} of at least {end:,} bytes; {AGAIN}")
        return found

    def _stored(self, name: str, shape: tuple[int, ...], number: int) -> tuple[str, int]:
        """Name of a tensor's format, and its bytes."""
        import gguf

        try:
            kind = gguf.GGMLQuantizationType(number)
            block, width = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise self._error(
                f"tensor {name[:80]!r} is stored in a format (number {number}) that the gguf package does not know; "
                "pip install -U gguf, or get the model in another quantisation"
            ) from None
        count = math.prod(shape)
        if not shape or count > 1 << 48 or count == 0 or shape[0] % block:
            raise self._damaged(f"tensor {name[:80]!r} has the shape {shape[::-1]} in {kind.name}")
        return str(kind.name), count // block * width

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _BOOL:
            return bool(self._number("|u1"))
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise self._damaged(f"it has a value of the kind {kind}")
        inner, count = self._number("<u4"), self._number("<u8")
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            raise self._damaged(f"it claims lists of over {MOST_ELEMENTS:,} values")
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        if inner not in _NUMBERS:
            raise self._damaged(f"it has a list of values of the kind {inner}")
        stored = np.dtype(_NUMBERS[inner])
        return np.frombuffer(self._take(count * stored.itemsize), stored)

    def _number(self, stored: str) -> Any:
        width = int(stored[-1])
        return np.frombuffer(self._take(width), stored)[0].item()

    def _string(self) -> str:
        raw = self._take(self._number("<u8"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a text in it is no UTF-8") from None

    def _take(self, count: int) -> bytes:
        if self._at + count > min(self._size, MOST_HEADER):
            if self._at + count > self._size:
                raise self._error(f"is cut off or damaged: its header goes on beyond its {self._size:,} bytes; {AGAIN}")
            raise self._damaged(f"over {MOST_HEADER >> 20} MiB stand in front of its weights")
        raw = self._handle.read(count)
        if len(raw) < count:
            raise self._error(f"was cut off while it was read; {AGAIN}")
        self._at += count
        return raw

    def _error(self, text: str) -> TargetError:
        return TargetError(f"{self._path}: {text}")

    def _damaged(self, text: str) -> TargetError:
        return self._error(f"is damaged: {text}; {AGAIN}")
