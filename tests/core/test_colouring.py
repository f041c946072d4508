"""Colourings: valid on any pattern, and with as few colours as bands, stencils and arrowheads need."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from gradwire_core.structure.colouring import colour_columns, colour_rows, colour_star
from gradwire_core.structure.sparsity import Sparsity


def pattern_of(matrix):
    found = sparse.csr_array(np.asarray(matrix, bool) if not sparse.issparse(matrix) else matrix)
    found.sort_indices()
    return Sparsity(found.shape, found.indptr, found.indices)


@st.composite
def patterns(draw, *, is_square=False):
    rows = draw(st.integers(0 if not is_square else 1, 12))
    columns = rows if is_square else draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    return rng.random((rows, columns)) < draw(st.sampled_from([0.05, 0.15, 0.3, 0.7]))


def symmetric(matrix):
    return matrix | matrix.T | np.eye(len(matrix), dtype=bool)


def band(size, below, above):
    offsets = range(-below, above + 1)
    return sparse.diags_array([np.ones(size - abs(k)) for k in offsets], offsets=list(offsets), format="csr")


def stencil(rows, columns, reach=1, *, corners=False):
    index = np.arange(rows * columns).reshape(rows, columns)
    pairs = []
    for i, k in itertools.product(range(-reach, reach + 1), repeat=2):
        if corners or not (i and k):
            here = index[max(0, -i) : rows - max(0, i), max(0, -k) : columns - max(0, k)]
            there = index[max(0, i) : rows + min(0, i) or None, max(0, k) : columns + min(0, k) or None]
            pairs.append((here.ravel(), there[: here.shape[0], : here.shape[1]].ravel()))
    heads, tails = map(np.concatenate, zip(*pairs, strict=True))
    return sparse.csr_array((np.ones(len(heads)), (heads, tails)), shape=(index.size, index.size))


def arrowhead(size):
    matrix = np.eye(size, dtype=bool)
    matrix[0] = matrix[:, 0] = True
    return matrix


@given(patterns())
def test_columns_of_one_colour_meet_in_no_row(matrix):
    found = colour_columns(pattern_of(matrix))
    assert len(found.colours) == matrix.shape[1]
    for one, other in itertools.combinations(range(matrix.shape[1]), 2):
        assert found.colours[one] != found.colours[other] or not (matrix[:, one] & matrix[:, other]).any()


@given(patterns(), st.integers(0, 99))
def test_entries_are_read_off_compressed_columns_and_rows(matrix, seed):
    values = np.random.default_rng(seed).normal(size=matrix.shape) * matrix
    pattern = pattern_of(matrix)
    columns, rows = colour_columns(pattern), colour_rows(pattern)
    by_columns = np.eye(columns.count)[:, columns.colours] @ values.T
    np.testing.assert_array_equal(by_columns.reshape(-1)[columns.sources], values[matrix])
    by_rows = np.eye(rows.count)[:, rows.colours] @ values
    np.testing.assert_array_equal(by_rows.reshape(-1)[rows.sources], values[matrix])


@given(patterns(is_square=True), st.integers(0, 99))
def test_entries_of_a_symmetric_matrix_are_read_off_a_star_colouring(matrix, seed):
    matrix = symmetric(matrix)
    values = np.random.default_rng(seed).normal(size=matrix.shape)
    values = (values + values.T) * matrix
    found = colour_star(pattern_of(matrix))
    compressed = np.eye(found.count)[:, found.colours] @ values
    np.testing.assert_array_equal(compressed.reshape(-1)[found.sources], values[matrix])
    assert found.count <= colour_columns(pattern_of(matrix)).count


@given(patterns(is_square=True))
def test_no_path_of_four_vertices_has_two_colours(matrix):
    from gradwire_core.structure.colouring import _greedy_star, _orders

    matrix = symmetric(matrix)
    pattern = pattern_of(matrix)
    edges = [np.flatnonzero(row & ~np.eye(len(matrix), dtype=bool)[index]) for index, row in enumerate(matrix)]
    for order in _orders(pattern):
        colour = _greedy_star(pattern, order)
        for first, mine in enumerate(edges):
            for second in mine:
                assert colour[first] != colour[second]
                for third in edges[second]:
                    for fourth in edges[third]:
                        if len({first, second, third, fourth}) == 4:
                            assert len({*colour[[first, second, third, fourth]]}) > 2


@pytest.mark.parametrize(("below", "above"), [(0, 0), (0, 1), (1, 1), (2, 1), (3, 3), (10, 10)])
def test_a_band_has_as_many_colours_as_diagonals(below, above):
    pattern = pattern_of(band(200, below, above))
    assert colour_columns(pattern).count == colour_rows(pattern).count == below + above + 1


def test_stencils_have_as_many_colours_as_points():
    five, nine = pattern_of(stencil(30, 41)), pattern_of(stencil(30, 41, corners=True))
    assert colour_columns(five, [(30, 41)]).count == 5
    assert colour_columns(nine, [(30, 41)]).count == 9
    assert colour_columns(pattern_of(stencil(30, 41, 2, corners=True)), [(30, 41)]).count == 25
    assert colour_columns(five).count <= 7  # no lattice is known of a flat vector


def test_an_arrowhead_needs_two_star_colours_and_all_others():
    pattern = pattern_of(arrowhead(50))
    assert colour_columns(pattern).count == 50
    assert colour_star(pattern).count == 2
    back = pattern_of(arrowhead(50)[::-1, ::-1])  # the full row last: fullest first finds it
    assert colour_star(back).count == 2


def test_two_inputs_are_two_axes():
    pattern = pattern_of(np.concatenate([np.eye(20), np.eye(20)], axis=1))
    assert colour_columns(pattern, [(20,), (20,)]).count == 2
    assert colour_columns(pattern, [(4, 5), (20,)]).count == 2


def test_an_empty_pattern_has_one_colour():
    pattern = pattern_of(np.zeros((4, 3)))
    assert colour_columns(pattern).count == 1
    assert colour_rows(pattern).sources.size == 0


def test_the_greedy_colouring_is_about_linear():
    """A dense row or column costs its entries, not their square."""
    size = 20_000
    hub = sparse.csr_array((np.ones(size), (np.zeros(size, int), np.arange(size))), shape=(size, size))
    pattern = pattern_of((sparse.eye_array(size) + hub + hub.T).tocsr())
    assert colour_star(pattern.symmetric).count == 2  # of their square it would take minutes, and gigabytes
