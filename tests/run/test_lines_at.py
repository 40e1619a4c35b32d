import io

import numpy as np
import pytest

from geofilter.run import lines_at as module
from geofilter.run.lines_at import lines_at


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
def test_lines_are_found_wherever_a_piece_ends(monkeypatch: pytest.MonkeyPatch, size: int, end: bytes):
    monkeypatch.setattr(module, "BUFFER", size)
    lines = [b"a\n", b"\n", b"bcd\n", b"\n", b"efghijklm\n", b"n" + end]
    for wanted in ([], [0], [5], [1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5]):
        found = list(lines_at(io.BytesIO(b"".join(lines)), np.array(wanted, np.int64)))
        assert found == [(i, lines[i]) for i in wanted]


def test_lines_that_there_are_not_are_left_out():
    assert list(lines_at(io.BytesIO(b"a\nb\n"), np.array([1, 2, 9]))) == [(1, b"b\n")]
    assert list(lines_at(io.BytesIO(b""), np.array([0]))) == []
