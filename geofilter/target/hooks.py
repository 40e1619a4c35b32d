"""Hook names: the places of a model an SAE can read, in TransformerLens' spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geofilter.errors import TargetError

RESIDUAL = ("hook_resid_pre", "hook_resid_post")
"""the residual stream before and after a block; every decoder has these"""
SUBLAYER = ("hook_attn_out", "hook_mlp_out", "attn.hook_z")
"""what attention and MLP write to it, and the heads' outputs before the output projection; see `ATTACH`"""

# Where a sublayer's contribution to the residual stream can be read: the module whose output it is, by
# model type. Gemma 2 and 3 norm what attention and MLP return before adding it; Llama's module of the same name
# (`post_attention_layernorm`) is the norm before the MLP, so the choice is by type, not by attribute.
_NORMED = {"hook_attn_out": "post_attention_layernorm", "hook_mlp_out": "post_feedforward_layernorm"}
_PLAIN = {"hook_attn_out": "self_attn", "hook_mlp_out": "mlp"}
ATTACH = {"gemma2": _NORMED, "gemma3_text": _NORMED, "llama": _PLAIN, "qwen3": _PLAIN, "gpt_oss": _PLAIN}
_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_BLOCK = re.compile(
    r"(?:(?:base_model|model|language_model|transformer|gpt_neox|decoder)\.)*(?:layers|h)\.(\d+)(?:\.(.+))?"
)
"""a decoder block by its module's name, as nnsight, dictionary_learning and sparsify spell places, or within one"""
_ENDS = {None: "hook_resid_post", "output": "hook_resid_post", "input": "hook_resid_pre"}
"""what of a block is the residual stream"""
_SAME = {"hook_out": "hook_resid_post", "hook_in": "hook_resid_pre"}
"""what TransformerLens' bridges call them"""


@dataclass(frozen=True, slots=True)
class Hook:
    """One place of a model: decoder layer (0-based) and kind."""

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str) -> Hook:
        """`blocks.12.hook_resid_post` and the like; a block by its module's name is its output: `model.layers.12`.

        Blanks around the name and upper case do not count.

        Raises:
            TargetError: any other place, named.
        """
        plain = name.strip().lower()
        if (block := _BLOCK.fullmatch(plain)) and block[2] in _ENDS:
            return cls(int(block[1]), _ENDS[block[2]])
        match = _NAME.fullmatch(plain)
        kind = _SAME.get(match[2], match[2]) if match else ""
        if not match or kind not in RESIDUAL + SUBLAYER:
            kinds = ", ".join(f"blocks.L.{kind}" for kind in RESIDUAL + SUBLAYER)
            raise TargetError(f"hook {name}: not supported; the SAE must read one of {kinds}")
        return cls(int(match[1]), kind)

    def sublayer(self, model_type: str, where: object) -> str:
        """Module of a block that a hook within it attaches to: by its output, or of `attn.hook_z` by its input.

        Args:
            where: the model, for the message.

        Raises:
            TargetError: it is not known for models of this type.
        """
        if (modules := ATTACH.get(model_type)) is None:
            raise TargetError(
                f"{where}: {self} is known for {', '.join(ATTACH)} only, not for {model_type}; use an SAE of the "
                f"residual stream ({', '.join(RESIDUAL)})"
            )
        return "self_attn.o_proj" if self.kind == "attn.hook_z" else modules[self.kind]

    @staticmethod
    def within_block(name: str) -> bool:
        """True for a module inside of a decoder block, by its name: `layers.12.mlp`."""
        block = _BLOCK.fullmatch(name.strip().lower())
        return block is not None and block[2] not in _ENDS

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.kind}"
