"""What a cut and its report hold of each scored row, beside what does not grow with the rows. No model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import write_manifest

from geofilter.rows.style import STYLE
from geofilter.run.store import FORMAT
from geofilter.run.tensors import packed

N = 600_000
BYTES_A_ROW = 40
CONSTANT = 18e6
"""pieces of arrays that are read, and the rows that groups are learnt from"""
CUT = """
import re, sys
from pathlib import Path

import faiss
import numpy.random

from geofilter.cut.cut import Cut, Selection
from geofilter.groups.groups import Groups
from geofilter.report.composition import dimensions
from geofilter.report.draw import drawn_ranks
from geofilter.run.store import Run

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
selection = Selection.of(Run.open(Path(sys.argv[1])), Cut.parse("10%"))
drawn_ranks(selection, len(selection.removed))
groups = Groups.find(selection)
divided = [d.table(selection.removed) for d in dimensions(selection)]
print(len(groups.groups), len(divided), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_a_cut_holds_few_bytes_of_each_row(tmp_path: Path):
    rng, each = np.random.default_rng(0), np.arange(N)
    number = np.zeros(N, np.int32)
    (tmp_path / "scores.safetensors").write_bytes(packed({
        "file": number, "line": each + 1, "sha256": rng.integers(0, 256, (N, 32), np.uint8),
        "score": rng.normal(size=N), "percentile": rng.random(N), "bank": number, "topic": number,
        "style": rng.random((N, len(STYLE)), np.float32), "n_tokens": (each % 60).astype(np.int32),
        "n_turns": number, "shape": number, "source": (each % 9).astype(np.int32), "learnt": np.zeros((N, 2), bool),
    }, {}))  # fmt: skip
    rows = np.eye(8, dtype=np.float16)[each % 8]
    of_all = {"centre": np.zeros(9, np.float32), "basis": np.zeros((9, 8), np.float16)}
    (tmp_path / "vectors.safetensors").write_bytes(packed({"vectors": rows, **of_all}, {}))
    write_manifest(tmp_path, {
        "format": FORMAT, "complete": True, "fingerprint": "f", "counts": {"scored": N},
        "data": [{"path": "d", "rows": N, "lines": N, "sha256": ""}],
        "banks": [{"name": "b"}], "sources": [str(i) for i in range(9)], "topics": ["a"],
    })  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CUT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    groups, divided, held = map(int, done.stdout.split())
    assert groups > 2
    assert divided == 3
    most = BYTES_A_ROW * N + CONSTANT
    assert (tmp_path / "scores.safetensors").stat().st_size > 1.5 * most, "all of the scores would fit"
    assert held < most
