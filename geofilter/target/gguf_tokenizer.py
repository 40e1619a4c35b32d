"""The tokenizer of a GGUF file, made into what the model's own one is.

A file holds the vocabulary, and of the rest names alone. It is put together here, and not by transformers: what that
makes of a file differs between its versions, and from the models' own tokenizers. That these are met has been compared
for Gemma 3, Llama 2, Llama 3.1 and Qwen 3, see docs/targets.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError, first_line
from geofilter.target.gguf_header import Header

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""kinds of token"""
_MOST_CHARACTERS, _MOST_OF_A_TOKEN, _MOST_PAIRS = 1 << 24, 1 << 10, 1 << 21
"""of a vocabulary of pieces; Gemma's has 2 million characters, 31 in a token, and 514,906 pairs"""
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


_GPT_2 = "gpt-2"
_SPLITS: dict[str, list[dict[str, Any]]] = {
    _GPT_2: [_BYTES | {"use_regex": True}],
    "smollm": [_DIGITS, _BYTES | {"use_regex": True}],
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "falcon3"), _split(_LLAMA_3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _split(_QWEN)),
    "tekken": _split(_TEKKEN),
}
"""how text is split into words, by the file's `tokenizer.ggml.pre`"""
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
"""of these a word that is a token is that token, whether or not merges lead to it; and BOS comes first"""
_COMPOSED = ("qwen2",)
"""these compose characters (NFC) first"""


def write_tokenizer(header: Header, out: Path, split: str = "") -> None:
    """Write a file's tokenizer and chat template.

    Args:
        split: how text is split into words, if not as the file says.

    Raises:
        TargetError: it has none, or one that is not read.
        OSError: it cannot be written.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    kind = header.text("tokenizer.ggml.model")
    if kind in ("", "no_vocab", "none") or not isinstance(header.metadata.get("tokenizer.ggml.tokens"), list):
        raise TargetError(f"{header.path}: holds no tokenizer; get a file that does, or give the model's own folder")
    if kind not in ("gpt2", "llama"):
        raise TargetError(
            f"{header.path}: its tokenizer is of the kind {kind[:80]!r}, and gpt2 (byte-level) and llama "
            "(sentencepiece) are read; give the model's own folder or hub id instead"
        )
    try:
        words = _Words(header)
        made = words.byte_level(split or header.text("tokenizer.ggml.pre")) if kind == "gpt2" else words.sentencepiece()
        core = Tokenizer.from_str(json.dumps(made))
        found = PreTrainedTokenizerFast(tokenizer_object=core, **words.named)
        found.chat_template = header.text("tokenizer.chat_template") or None
    except Exception as error:  # whatever tokenizers and transformers raise at what cannot be
        raise TargetError(
            f"{header.path}: its tokenizer cannot be read ({first_line(error)}); give the model's own folder or hub id "
            "instead"
        ) from None
    try:
        found.save_pretrained(out)
    except Exception as error:  # tokenizers has no class of its own for this
        raise OSError(str(error)) from None


def split_note(header: Header) -> str:
    """What a reader should know of a tokenizer that splits words in a way that is not known; else empty."""
    name = header.text("tokenizer.ggml.pre")
    if header.text("tokenizer.ggml.model") != "gpt2" or name in _SPLITS:
        return ""
    return (
        f"its tokenizer splits words in a way that is not known here ({name[:80] or 'the file does not say which'}): "
        "they are split as GPT-2's, so some tokens may be others than the model's own"
    )


class _Words:
    """A file's vocabulary, and the parts of a tokenizer.json."""

    def __init__(self, header: Header) -> None:
        self._about = header
        self._tokens: list[str] = self._get("tokens")
        kinds = self._get("token_type")
        known = kinds is not None and len(kinds) == len(self._tokens)
        self._kinds: list[int] = kinds.tolist() if known else [1] * len(self._tokens)
        qwen = header.text("general.architecture").startswith("qwen") and self._get("add_bos_token") is not True
        # Qwen's models begin with no token, though their files name one.
        self._ids = {
            name: self._get(f"{key}_token_id")
            for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
            if not (qwen and name == "bos")
        }

    def _get(self, key: str) -> Any:
        return self._about.metadata.get(f"tokenizer.ggml.{key}")

    @property
    def named(self) -> dict[str, str]:
        """The tokens that have a name, as transformers takes them."""
        inside = {n: i for n, i in self._ids.items() if isinstance(i, int) and 0 <= i < len(self._tokens)}
        return {f"{name}_token": self._tokens[number] for name, number in inside.items()}

    def byte_level(self, split: str) -> dict[str, Any]:
        """Words of bytes that are spelled as characters, merged in the order of the file."""
        spelling = _byte_characters()
        alphabet = set(spelling.values())

        def spelled(token: str, kind: int) -> str:
            if kind in (_CONTROL, _USER_DEFINED) or set(token) <= alphabet:
                return token
            return "".join(spelling[byte] for byte in token.encode())

        tokens = [spelled(token, kind) for token, kind in zip(self._tokens, self._kinds, strict=True)]
        merges = [merge.split(" ") for merge in self._get("merges") or ()]
        words = _SPLITS.get(split, _SPLITS[_GPT_2])
        return self._whole(
            tokens, [kind in (_CONTROL, _USER_DEFINED) for kind in self._kinds], merges,
            normalizer={"type": "NFC"} if split in _COMPOSED else None,
            pre_tokenizer={"type": "Sequence", "pretokenizers": words},
            decoder=_BYTES | {"add_prefix_space": True, "use_regex": True},
            bos=self._get("add_bos_token") is True or (split in _WHOLE_WORDS and self._get("add_bos_token") is None),
            ignore_merges=split in _WHOLE_WORDS,
        )  # fmt: skip

    def sentencepiece(self) -> dict[str, Any]:
        """Pieces that are joined by their scores; what is no piece is bytes."""
        gemma = self._about.text("general.architecture").startswith("gemma")
        prefix = not gemma and self._get("add_space_prefix") is not False
        runs = [kind == _USER_DEFINED and not t.strip(" ") for t, kind in zip(self._tokens, self._kinds, strict=True)]
        tokens = ["▁" * len(t) if run else t for t, run in zip(self._tokens, runs, strict=True)]
        scores = self._get("scores")
        # Gemma's scores are not in the order of its merges; its tokens are.
        by_scores = not gemma and scores is not None and len(scores) == len(tokens)
        best = scores.tolist() if by_scores else [-float(number) for number in range(len(tokens))]
        # What was defined and not learnt comes first: of blanks the longest run.
        best = [math.inf if kind == _USER_DEFINED else score for score, kind in zip(best, self._kinds, strict=True)]
        blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        before = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
        after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
        back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
        added = [kind in (_UNKNOWN, _CONTROL) or (kind == _USER_DEFINED and not run)
                 for kind, run in zip(self._kinds, runs, strict=True)]  # fmt: skip
        return self._whole(
            tokens, added, list(_pairs(tokens, best)),
            normalizer={"type": "Sequence", "normalizers": [*before, blanks]}, pre_tokenizer=None,
            decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *after]},
            bos=self._get("add_bos_token") is not False,
            unk_token=self.named.get("unk_token"), fuse_unk=True, byte_fallback=True,
        )  # fmt: skip

    def _whole(
        self, tokens: Sequence[str], added: Sequence[bool], merges: list[list[str]], bos: bool, normalizer: Any,
        pre_tokenizer: Any, decoder: Any, **model: Any,
    ) -> dict[str, Any]:  # fmt: skip
        first = self._ids.get("bos")
        marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        vocab: dict[str, int] = {}
        for number, token in enumerate(tokens):
            vocab.setdefault(token, number)
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [
                {"id": number, "content": token, **marks, "special": self._kinds[number] != _USER_DEFINED}
                for number, token in enumerate(tokens) if added[number] and token and vocab[token] == number
            ],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
            "post_processor": _begun(self.named["bos_token"], first) if bos and "bos_token" in self.named else None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges, **model},
        }  # fmt: skip


def _begun(token: str, number: Any) -> dict[str, Any]:
    """A post-processor that puts a token first."""
    mark = {"SpecialToken": {"id": token, "type_id": 0}}
    single = [mark, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    known = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def _pairs(tokens: Sequence[str], best: Sequence[float]) -> Iterator[list[str]]:
    """All pairs of pieces that make a piece, those that make the best one first.

    Raises:
        ValueError: there are more than any vocabulary has.
    """
    if sum(map(len, tokens)) > _MOST_CHARACTERS or max(map(len, tokens)) > _MOST_OF_A_TOKEN:
        raise ValueError("its tokens are too long")
    known = set(tokens)
    found = []
    for number, token in enumerate(tokens):
        for at in range(1, len(token)):
            if token[:at] in known and token[at:] in known:
                found.append((-best[number], -at, at - len(token), number))
        if len(found) > _MOST_PAIRS:
            raise ValueError("its tokens are made of each other in too many ways")
    found.sort()
    return ([tokens[number][:-at], tokens[number][-at:]] for _, at, _, number in found)


def _byte_characters() -> dict[int, str]:
    """The character by which GPT-2 spells each byte: printable ones as they are, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
