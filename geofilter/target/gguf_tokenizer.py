"""The tokenizer of a GGUF file, as the model's own one is: transformers builds it, and what it leaves out is added.

A file holds the vocabulary, and of the rest names alone. That the results are what the models' own tokenizers give has
been compared for Gemma 3, Llama 2, Llama 3.1 and Qwen 3, see docs/targets.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.target.gguf_header import Header
from geofilter.target.hub import link

_NO_VOCABULARY = ("", "no_vocab", "none")
_USER_DEFINED = 4
"""kind of token"""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3, _QWEN = _WORDS % r"\p{N}{1,3}", _WORDS % r"\p{N}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _BYTES]


_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES | {"use_regex": True}],
    "smollm": [_DIGITS, _BYTES | {"use_regex": True}],
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "falcon3"), _split(_LLAMA_3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _split(_QWEN)),
    "tekken": _split(_TEKKEN),
}
"""how text is split into words, by the file's `tokenizer.ggml.pre`"""
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
"""of these a word that is a token is that token, whether or not merges lead to it"""
_COMPOSED = ("qwen2",)
"""these compose characters (NFC) first"""


def write_tokenizer(header: Header, out: Path, *, plain: bool = False) -> None:
    """Write a file's tokenizer and chat template.

    Args:
        plain: as transformers makes it, with nothing added.

    Raises:
        TargetError: it has none, or one that transformers cannot read.
    """
    from transformers import PreTrainedTokenizerFast

    if header.text("tokenizer.ggml.model") in _NO_VOCABULARY or not header.metadata.get("tokenizer.ggml.tokens"):
        raise TargetError(f"{header.path}: holds no tokenizer; get a file that does, or give the model's own folder")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:  # nothing that lies beside the file is read
        link(header.path.resolve(), Path(scratch, "model.gguf"))
        try:
            found = PreTrainedTokenizerFast.from_pretrained(scratch, gguf_file="model.gguf", local_files_only=True)
            found.save_pretrained(out)
            if not plain:
                _change(out / "tokenizer.json", lambda made: _as_the_model_s_own(made, header))
            if not plain and _has_no_bos(header):
                _change(out / "tokenizer_config.json", lambda made: made.pop("bos_token", None))
        except Exception as error:  # whatever transformers and tokenizers raise
            raise TargetError(
                f"{header.path}: its tokenizer cannot be read ({first_line(error)}); give the model's own folder or "
                "hub id instead"
            ) from None


def split_note(header: Header) -> str:
    """What a reader should know of a tokenizer that splits words in a way that is not known; else empty."""
    name = header.text("tokenizer.ggml.pre")
    if header.text("tokenizer.ggml.model") != "gpt2" or name in _SPLITS or name in _of_transformers():
        return ""
    return (
        f"its tokenizer splits words in a way that is not known here ({name[:80] or 'the file does not say which'}): "
        "they are split as GPT-2's, so some tokens may be others than the model's own"
    )


def _of_transformers() -> Sequence[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # earlier versions
        return ()
    return list(GGUF_PRE_TOKENIZER_SPLITS)


def _change(path: Path, change: Any) -> None:
    made = json.loads(path.read_text("utf-8"))
    change(made)
    path.write_text(json.dumps(made, ensure_ascii=False), "utf-8")


def _as_the_model_s_own(made: dict[str, Any], header: Header) -> None:
    """Change a tokenizer.json that transformers has made of a file."""
    if header.text("tokenizer.ggml.model") == "gpt2":
        name = header.text("tokenizer.ggml.pre")
        if name in _SPLITS:
            made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": _SPLITS[name]}
        if name in _WHOLE_WORDS:
            made["model"]["ignore_merges"] = True
        if name in _COMPOSED:
            made["normalizer"] = {"type": "NFC"}
    elif header.text("general.architecture").startswith("gemma"):
        _user_defined_first(made, header)
    elif header.text("tokenizer.ggml.model") == "llama":
        _prefixed(made, header.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False)


def _user_defined_first(made: dict[str, Any], header: Header) -> None:
    """Merge to the longest run of blanks first, as sentencepiece does to what was defined and not learnt."""
    kinds = header.metadata.get("tokenizer.ggml.token_type")
    tokens = header.metadata["tokenizer.ggml.tokens"]
    if kinds is None or len(kinds) != len(tokens):
        return
    defined = {
        "▁" * len(t) if not t.strip(" ") else t for t, k in zip(tokens, kinds, strict=True) if k == _USER_DEFINED
    }
    merges = made["model"]["merges"]
    first = [pair for pair in merges if pair[0] + pair[1] in defined]
    first.sort(key=lambda pair: (-len(pair[0]), -len(pair[1])))
    made["model"]["merges"] = first + [pair for pair in merges if pair[0] + pair[1] not in defined]


def _prefixed(made: dict[str, Any], prefix: bool) -> None:
    """A blank before each stretch between special tokens, as Llama's tokenizer and llama.cpp put it."""
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    made["pre_tokenizer"] = None
    made["normalizer"] = {"type": "Sequence", "normalizers": [*before, blanks]}
    decoders = [d for d in made["decoder"]["decoders"] if d["type"] != "Strip"]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    made["decoder"]["decoders"] = [*decoders, *([strip] if prefix else [])]


def _has_no_bos(header: Header) -> bool:
    """Qwen's models begin with no token, though their files name one."""
    named = header.text("general.architecture").startswith("qwen")
    return named and header.metadata.get("tokenizer.ggml.add_bos_token") is not True
