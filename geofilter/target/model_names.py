"""Do two names mean the same model? Repositories, TransformerLens' short names, and repackaged weights of either."""

from __future__ import annotations

import re

# Of TransformerLens' short names those that differ from the repository's by more than case and organisation.
_ALIASES = {
    "apertus-8b": "apertus-8b-2509", "apertus-8b-instruct": "apertus-8b-instruct-2509", "distil-gpt2": "distilgpt2",
    "distill-gpt2": "distilgpt2", "distillgpt2": "distilgpt2", "gpt-j": "gpt-j-6b", "gptj": "gpt-j-6b",
    "gpt-neo-large": "gpt-neo-2.7b", "gpt-neo-medium": "gpt-neo-1.3b", "gpt-neo-small": "gpt-neo-125m",
    "gpt-neox": "gpt-neox-20b", "gpt-oss": "gpt-oss-20b", "gpt2-small": "gpt2", "gpt2-xs": "distilgpt2",
    "mistral-7b": "mistral-7b-v0.1", "mistral-7b-instruct": "mistral-7b-instruct-v0.1",
    "mixtral-8x7b": "mixtral-8x7b-v0.1", "mixtral-8x7b-instruct": "mixtral-8x7b-instruct-v0.1",
    "olmo-2-1b": "olmo-2-0425-1b", "olmo-2-7b": "olmo-2-1124-7b", "olmoe": "olmoe-1b-7b-0924",
    "opt-large": "opt-2.7b", "opt-medium": "opt-1.3b", "opt-small": "opt-125m", "opt-xl": "opt-6.7b",
    "opt-xxl": "opt-13b", "phi-3": "phi-3-mini-4k-instruct", "pythia": "pythia-70m", "qwen-1.8b": "qwen-1_8b",
    "qwen-1.8b-chat": "qwen-1_8b-chat",
}  # fmt: skip
_PYTHIA = {"19m": "70m", "125m": "160m", "350m": "410m", "800m": "1b", "1.3b": "1.4b", "2.7b": "2.8b",
           "6.7b": "6.9b", "13b": "12b"}  # fmt: skip
"""sizes by which Pythia's models went at first"""
_REPACKED = re.compile(
    r"-(?:hf|gguf|mlx|unsloth|bf16|fp16|fp8(?:-dynamic|-block|-kv)?|fp4|mxfp4|nvfp4|int[48]|w\d+a\d+|(?:bnb-)?[48]bit|"
    r"awq(?:-int4)?|gptq(?:-int[48]|-[48]bit)?|quantized(?:\.w\d+a\d+)?)$"
    r"|[-.](?:ud-|i1-)?(?:i?q\d(?:_[a-z0-9]+)*|tq\d_\d|mxfp4(?:_moe)?|b?f16|f32|fp32)$"
)
"""endings of the same weights in another format; what they lose by it `doctor` measures"""
_STAGE = re.compile(r"-(?:it|instruct|chat|pt|base|thinking)(?=-|$)")


def same_model(a: str, b: str) -> tuple[bool, bool]:
    """Do two names mean the same model, and do they when instruction tuning is left out of account?

    The organisation does not count, nor does the format of the weights. Without the training stage a date that stands
    at the end does not count either: Qwen3-4B-Instruct-2507 is a stage of Qwen3-4B.
    """
    plain = [_plain(name) for name in (a, b)]
    stems = [re.sub(r"-\d{4}$", "", _STAGE.sub("", name, count=1)) for name in plain]
    return plain[0] == plain[1], stems[0] == stems[1]


def _plain(name: str) -> str:
    found = name.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-")
    while (shorter := _REPACKED.sub("", found)) != found:
        found = shorter
    found = _ALIASES.get(found, found)
    if pythia := re.fullmatch(r"pythia-([\d.]+[mb])(-.*)?", found):
        found = f"pythia-{_PYTHIA.get(pythia[1], pythia[1])}{pythia[2] or ''}"
    return found
