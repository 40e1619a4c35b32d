"""What a measurement was made on: processor or GPU, threads, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from geofilter.version import __version__

FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""of a processor, by which the speed of float32 and bfloat16 differs"""
PACKAGES = ("torch", "transformers", "sae-lens", "transformer-lens", "numpy", "scipy", "tokenizers", "safetensors")


def machine(device: torch.device) -> dict[str, Any]:
    """Of this machine and of the device that is measured."""
    known: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").splitlines() if info.is_file() else ():
        key, _, value = line.partition(":")
        known.setdefault(key.strip(), value.strip())
    flags = known.get("flags", "").split()
    out: dict[str, Any] = {
        "device": str(device),
        "cpu": known.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": {flag: flag in flags for flag in FLAGS},
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {"geofilter": __version__, **{name: version(name) for name in PACKAGES}},
    }
    if device.type == "cuda":
        out["gpu"], out["cuda"] = torch.cuda.get_device_name(device), torch.version.cuda
        out["gpu_memory"] = torch.cuda.get_device_properties(device).total_memory
    return out


def sentence(found: dict[str, Any]) -> str:
    """The same in a line or two."""
    where = f"{found['gpu']} (CUDA {found['cuda']}), " if "gpu" in found else ""
    flags = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in found["flags"].items())
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{where}{found['cpu']}, {found['cores']} cores, {found['threads']} threads ({flags}); "
        f"Python {found['python']}, {versions}"
    )
