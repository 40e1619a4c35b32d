"""What the package depends on: what pyproject.toml lists for all, and one of two builds of FAISS.

`GEOFILTER_FAISS` says which when the package is built: `gpu`, the default, or `cpu`, which is enough without a GPU and
gives the same numbers. An extra could not say it: it only adds to what is needed anyway, and the two cannot stand side
by side.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "GEOFILTER_FAISS"


class FaissHook(MetadataHookInterface):
    """Fills in `project.dependencies`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling.

        Raises:
            ValueError: the variable names no build of FAISS.
        """
        builds, build = self.config["faiss"], os.environ.get(VARIABLE) or "gpu"
        if build not in builds:
            raise ValueError(f"{VARIABLE}={build}: use {' or '.join(builds)}")
        metadata["dependencies"] = [*self.config["dependencies"], *builds[build]]
