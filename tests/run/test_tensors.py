import io

import numpy as np
import pytest

from geofilter.run.tensors import GrowingTensors, outlined, packed, unpacked


@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_a_file_that_grows_is_the_one_written_at_once(n: int):
    rng = np.random.default_rng(0)
    rows = {
        "line": np.arange(n), "sha256": rng.integers(0, 255, (n, 32)).astype(np.uint8), "score": rng.random(n),
        "learnt": np.zeros((n, 2), bool), "style": rng.random((n, 9), np.float32), "bank": np.zeros(n, np.int32),
        "vectors": rng.random((n, 4)).astype(np.float16),
    }  # fmt: skip
    whole = {"centre": rng.random(5, np.float32), "basis": rng.random((5, 4)).astype(np.float16)}
    handle = io.BytesIO()
    growing = GrowingTensors(handle, {name: (of.dtype, of.shape[1:]) for name, of in rows.items()}, n, whole)
    for start in range(0, n, 3):
        growing.add({name: of[start : start + 3] for name, of in rows.items()})
    growing.finish()
    assert handle.getvalue() == packed({**rows, **whole}, {})


def test_an_outline_says_what_a_file_has_and_its_mark_is_another_for_other_arrays(tmp_path):
    path, marks = tmp_path / "a.safetensors", set()
    for array in (np.zeros((3, 2)), np.ones((3, 2))):
        path.write_bytes(packed({"a": array}, {"n": 3}))
        about, shapes, mark = outlined(path)
        assert (about, shapes) == ({"n": 3}, {"a": (3, 2)})
        marks.add(mark)
    assert len(marks) == 2
    path.write_bytes(path.read_bytes().replace(rb"{\\\"n\\\": 3}", rb"{\\\"n\\\": 4}"))
    with pytest.raises(ValueError, match="about is not what was written"):
        outlined(path)
    with pytest.raises(ValueError, match="about is not what was written"):
        unpacked(path)
