"""The tokenizer of a model folder; those of some Mistral models transformers reads rightly only when it is asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geofilter.target.staged import staged_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOTE = "its tokenizer splits words by the pattern that transformers mends for Mistral's models (fix_mistral_regex)"
_TYPES = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")
_LEAST = 100_000
"""entries of a vocabulary; Mistral's smaller ones split words in another way, and rightly"""
_MENDED_IN = 5
"""major version of transformers whose saved tokenizers need no mending"""


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        OSError, ValueError and others of transformers: not one that can be read.
    """
    from transformers import AutoTokenizer

    mend = {"fix_mistral_regex": True} if splits_wrongly(folder) else {}
    with staged_tokenizer(folder) as shown:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            shown, local_files_only=True, trust_remote_code=False, **mend
        )
    return found


def splits_wrongly(folder: Path) -> bool:
    """True for a tokenizer whose pattern of words is to be mended: transformers' own test, for a folder."""
    config = _read(folder / "config.json")
    major = str(config.get("transformers_version") or "0").partition(".")[0]
    if config.get("model_type") not in _TYPES or not major.isdecimal() or int(major) >= _MENDED_IN:
        return False
    found = _read(folder / "tokenizer.json")
    model = found.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(words, dict) or found.get("pre_tokenizer") is None:
        return False
    tokens = found.get("added_tokens")
    names = [token.get("content") for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    added = {name for name in names if isinstance(name, str)}
    return len(words) + len(added - words.keys()) > _LEAST


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # whoever loads it says what is wrong
        return {}
    return found if isinstance(found, dict) else {}
