import numpy as np
import scipy.sparse as sp

from geofilter.bank.strongest import strongest


def test_the_largest_positive_values_of_each_row_the_lower_index_first_among_equals():
    rng = np.random.default_rng(0)
    for n, width, density in ((1, 5, 1.0), (30, 12, 0.7), (40, 300, 0.3), (25, 900, 1.0), (3, 40, 0.0)):
        rows = sp.random(n, width, density=density, format="csr", random_state=1)
        rows.data = np.round(rng.normal(size=len(rows.data)), 1)  # many equal ones, and zeros
        found = strongest(rows.data, rows.indices, rows.indptr, 8)
        for i in range(n):
            places = range(rows.indptr[i], rows.indptr[i + 1])
            wanted = sorted((-rows.data[p], rows.indices[p], p) for p in places if rows.data[p] > 0)[:8]
            assert found[i].tolist() == [p for *_, p in wanted] + [-1] * (8 - len(wanted))


def test_of_no_rows_nothing():
    none = np.zeros(0)
    assert strongest(none, none.astype(np.int32), np.zeros(1, np.int64), 8).shape == (0, 8)
