"""Search for the nearest vectors by inner product (FAISS), on the GPU where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, Positions

GPU_BYTES = 256 << 20
"""scratch memory of a search on a GPU; a model may be there too"""


def on_device(index: Any) -> tuple[Any, Any]:
    """An index where it is searched fastest, on the GPU where FAISS finds one, and what must live as long as it."""
    import faiss

    if not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0):
        return index, None
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_BYTES)
    return faiss.index_cpu_to_gpu(resources, 0, index), resources


class ExactSearch:
    """An exact inner-product search among vectors (n, d).

    Args:
        few: some queries only, or more than 2,048 neighbours each: then a GPU is not worth the way, or cannot.
    """

    def __init__(self, vectors: npt.NDArray[Any], few: bool = False) -> None:
        import faiss

        self._n, index = len(vectors), faiss.IndexFlatIP(vectors.shape[1])
        self._index: Any = index
        self._resources: Any = None
        if not few:
            self._index, self._resources = on_device(index)
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def nearest(self, queries: npt.NDArray[Any], k: int) -> tuple[F32, Positions]:
        """Inner products (m, k) of the k nearest vectors to each query (m, d), largest first, and their positions.

        Fewer than k where there are not as many.
        """
        product, which = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, self._n))
        return product, which
