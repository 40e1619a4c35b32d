"""Is everything in its place: packages, FAISS, cache, weights, memory, and the pair."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

import torch

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import choose_device
from geofilter.encode.need import fitting, memory_needed, said
from geofilter.encode.pair import Check, explained_variance, judge_pair
from geofilter.errors import TargetError
from geofilter.files import Notify, cache_dir
from geofilter.target.kept import check_target
from geofilter.target.resolve import cached_targets, locate
from geofilter.target.sae_folder import decoder_shape
from geofilter.target.size import MAX_TOKENS
from geofilter.target.target import Target


def faiss_builds() -> list[str]:
    """Installed FAISS distributions."""
    found = []
    for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def check_faiss() -> Check:
    """One FAISS, and one that works."""
    builds = faiss_builds()
    if len(builds) != 1:
        return Check(
            "faiss", False,
            f"{' and '.join(builds) or 'none'} installed; exactly one must be: pip uninstall all of them, "
            "then install one",
        )  # fmt: skip
    import faiss
    import numpy as np

    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    found = int(index.search(np.eye(4, dtype=np.float32)[2:3], 1)[1][0, 0])
    return Check("faiss", found == 2, f"{builds[0]}, {gpus} GPU(s)")


def check_cache() -> Check:
    """The cache folder can be written."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Check("cache", False, f"{folder}: cannot be made ({error.strerror}); set GEOFILTER_CACHE")
    ok = os.access(folder, os.W_OK)
    return Check("cache", ok, f"{folder}" + ("" if ok else ": not writable; set GEOFILTER_CACHE to a folder that is"))


def check_memory(target: Target, loading: Loading) -> Check:
    """Does the estimate fit the GPU, and --max-memory? What the machine has free is not asked."""
    d_in, d_sae = decoder_shape(target.sae_dir)
    try:
        at_once = fitting(target, loading)
    except TargetError as error:
        return Check("memory", False, str(error))
    need = memory_needed(
        target.model_dir, target.layer, d_in, d_sae, loading, MAX_TOKENS, at_once, target.sae_dir
    )  # fmt: skip
    text = said(need, loading)
    if loading.max_memory is not None:
        text += f"; {at_once.tokens:,} tokens at once to keep within {loading.max_memory}"
    device = choose_device(loading.device)
    if device.type != "cuda":
        return Check("memory", True, text)
    numbers = range(torch.cuda.device_count()) if loading.device_map else [device.index or 0]
    free = sum(torch.cuda.mem_get_info(n)[0] for n in numbers)
    return Check("memory", need.total <= free, f"{text}; {free / 1e9:.1f} GB free on {len(numbers)} GPU(s)")


def examine(choice: TargetChoice, loading: Loading, notify: Notify = print) -> list[Check]:
    """All checks; with a model in `choice` its files, memory and pair too, else those of embedded ones in the cache.

    Uses no network.
    """
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    checks = [
        Check("torch", True, f"{torch.__version__}, {gpu}, {torch.get_num_threads()} threads"),
        Check("transformers", True, version("transformers")),
        Check("sae-lens", True, version("sae-lens")),
        check_faiss(),
        check_cache(),
    ]
    if choice.model is not None:
        return checks + examine_target(choice, loading, notify)
    present = cached_targets()
    for name in present:
        checks += examine_target(TargetChoice(name), loading, notify)
    if not present:
        checks.append(Check("files", True, "no target named; the embedded one's weights come with its first scan"))
    return checks


def examine_target(choice: TargetChoice, loading: Loading, notify: Notify) -> list[Check]:
    """A target's files, memory and pair; the later ones only as far as the earlier ones hold."""
    target, absent = locate(choice, notify)
    if target is None:
        return [Check("files", False, text) for text in absent]
    try:
        adapter = f", adapter in {target.adapter_dir}" if target.adapter_dir else ""
        where = f"{target.name}: model in {target.model_dir}{adapter}, SAE in {target.sae_dir}"
        checks = [Check("files", True, where)]
        checks += [Check("note", True, text) for text in target.notes]
        check_target(target)
        checks.append(check_memory(target, loading))
        if not checks[-1].ok:
            return checks
        return [*checks, judge_pair(target, explained_variance(target, loading))]
    except TargetError as error:
        return [Check("target", False, str(error))]
