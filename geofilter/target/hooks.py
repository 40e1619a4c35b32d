"""Hook names: the places of a model an SAE can read, in TransformerLens' spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geofilter.errors import TargetError

RESIDUAL = ("hook_resid_pre", "hook_resid_post")
"""the residual stream before and after a block; every decoder has these"""
SUBLAYER = ("hook_attn_out", "hook_mlp_out", "attn.hook_z")
"""what attention and MLP write to it, and the heads' outputs before the output projection; see `model.ATTACH`"""
_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Hook:
    """One place of a model: decoder layer (0-based) and kind."""

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str) -> Hook:
        """`blocks.12.hook_resid_post` and the like.

        Raises:
            TargetError: any other place, named.
        """
        match = _NAME.fullmatch(name)
        if not match or match[2] not in RESIDUAL + SUBLAYER:
            kinds = ", ".join(f"blocks.L.{kind}" for kind in RESIDUAL + SUBLAYER)
            raise TargetError(f"hook {name}: not supported; the SAE must read one of {kinds}")
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.kind}"
