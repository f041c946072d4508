"""The block triangular form of systems made by hand and at random: blocks, and why there are none."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.structure.matching import Blocks, Bottleneck, Network


def network(count: int, inner: int, arcs, hubs=()) -> Network:
    """A system of `count` inputs, `inner` scalars between and `count` outputs; arcs join two scalars, hubs two groups of them."""
    found = Network(2 * count + inner, np.arange(count), np.arange(count + inner, 2 * count + inner))
    for tail, head in arcs:
        found.connect(found.column(np.array([tail])), found.row(np.array([head])))
    for tails, heads in hubs:
        hub = found.hubs(1)
        found.connect(found.column(np.array(tails)), hub)
        found.connect(hub, found.row(np.array(heads)))
    return found


def members(found: Blocks | Bottleneck, count: int, inner: int) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The rows and the columns of each block, but for those of one scalar between, alone."""
    assert isinstance(found, Blocks)
    rows, columns = range(count, 2 * count + inner), range(count + inner)
    blocks = {
        (tuple(k for k in rows if found.rows[k] == label), tuple(k for k in columns if found.columns[k] == label))
        for label in {*found.rows[count:].tolist(), *found.columns[: count + inner].tolist()}
    }
    return {block for block in blocks if block[0] != block[1]}


def test_a_path_is_a_block_for_each_step():
    assert members(network(1, 1, [(0, 1), (1, 2)]).solve(), 1, 1) == {((1,), (0,)), ((2,), (1,))}


def test_two_paths_are_one_block_with_what_is_between():
    assert members(network(1, 1, [(0, 1), (1, 2), (0, 2)]).solve(), 1, 1) == {((1, 2), (0, 1))}


def test_a_coupling_is_blocks_of_one():
    # y0 = x0; s = f(x0); y1 = x1 + s
    assert members(network(2, 1, [(0, 3), (0, 2), (2, 4), (1, 4)]).solve(), 2, 1) == {((3,), (0,)), ((4,), (1,))}


def test_a_hub_is_as_good_as_all_its_arcs():
    rng = np.random.default_rng(0)
    for _ in range(300):
        count, inner = rng.integers(1, 4), rng.integers(0, 6)
        total = 2 * count + inner
        arcs = [(tail, head) for tail in range(count + inner) for head in range(max(tail + 1, count), total) if rng.random() < 0.25]
        hubs = []
        for _ in range(rng.integers(0, 3)):
            cut = rng.integers(1, count + inner + 1)
            tails = [k for k in range(cut) if rng.random() < 0.6]
            heads = [k for k in range(max(cut, count), total) if rng.random() < 0.6]
            if tails and heads:
                hubs.append((tails, heads))
        listed = {*arcs, *[(tail, head) for tails, heads in hubs for tail in tails for head in heads]}
        one, other = network(count, inner, arcs, hubs).solve(), network(count, inner, sorted(listed)).solve()
        assert type(one) is type(other)
        if isinstance(one, Blocks):
            assert members(one, count, inner) == members(other, count, inner)
            assert_triangular(one, listed, count, inner)
        else:
            assert len(one.scalars) == len(other.scalars) < count
            assert not leads_through(listed, set(one.scalars.tolist()), count, inner)


def assert_triangular(found: Blocks, arcs, count: int, inner: int) -> None:
    """No two blocks depend on each other, and each has as many rows as columns."""
    depends = np.eye(found.count, dtype=bool)
    for tail, head in arcs:
        depends[found.rows[head], found.columns[tail]] = True
    for scalar in range(count, count + inner):
        depends[found.rows[scalar], found.columns[scalar]] = True
    for middle in range(found.count):
        depends |= depends[:, [middle]] & depends[middle]
    assert not (depends & depends.T & ~np.eye(found.count, dtype=bool)).any()
    rows, columns = found.rows[count:], found.columns[: count + inner]
    np.testing.assert_array_equal(np.bincount(rows, minlength=found.count), np.bincount(columns, minlength=found.count))


def leads_through(arcs, cut: set[int], count: int, inner: int) -> bool:
    """Whether a path from an input to an output avoids a cut."""
    reached = set(range(count)) - cut
    for tail, head in sorted(arcs):
        if tail in reached and head not in cut:
            reached.add(head)
    return any(scalar >= count + inner for scalar in reached)


@pytest.mark.parametrize(("arcs", "scalars"), [([(0, 2), (1, 2), (2, 3), (2, 4)], [2]), ([], []), ([(0, 3), (0, 4)], [0])])
def test_why_a_system_is_singular(arcs, scalars):
    found = network(2, 1, arcs).solve()
    assert isinstance(found, Bottleneck)
    np.testing.assert_array_equal(found.scalars, scalars)


def test_an_empty_system_has_no_blocks():
    assert members(network(0, 3, [(0, 1)]).solve(), 0, 3) == set()


def test_a_long_chain_takes_no_recursion():
    count, length = 10, 5000
    found = Network(count * length, np.arange(count), np.arange(count * (length - 1), count * length))
    scalars = np.arange(count * (length - 1))
    found.connect(found.column(scalars), found.row(scalars + count))
    blocks = found.solve()
    assert isinstance(blocks, Blocks)
    np.testing.assert_array_equal(blocks.rows[count:], blocks.columns[:-count])
