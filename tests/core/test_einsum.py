"""Contractions: every lowering agrees with numpy.einsum, and none searches or copies where it need not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gradwire_core.einsum import compiled, contract, einsum_flops, lower

DTYPES = ("float64", "float32", "complex128", "int64", "int32", "bool")
CASES = (
    "->", "i->i", "i->", "ij->ji", "ij->j", "ijk->ki", "ijk->kij",
    ",->", ",i->i", "i,->i", "i,i->", "i,j->ij", "i,j->ji", "i,j->", "i,i->i", "ij,i->ij", "ik,kj->ikj", "ij,ji->ij", "ijk,k->i",
    "ij,j->i", "ij,i->j", "j,ij->i", "ij,jk->ik", "ij,jk->ki", "ji,jk->ik", "ij,kj->ik", "ji,kj->ik", "ij,ij->", "ij,ji->",
    "abij,ij->ab", "aibj,ji->ab", "aibj,jci->bac", "ijk,kl->jil",
    "bij,bjk->bik", "bij,bjk->bki", "bij,bkj->bik", "bji,bjk->bik", "ijb,jkb->ikb", "ibj,bjk->bik", "abij,bajk->baik",
    "aibj,abjk->ikab",
    "bi,bi->b", "bij,bij->b", "bij,bji->b", "bij,bj->bi", "bj,bij->bi", "ibj,jb->bi", "bijk,bk->bji",
    "ij,jk,kl->il", "i,j,ij->", "ij,j,jk,k->i", "a,a,a->a", "a,b,c->abc", "ai,bi,ci,di->abcd",
)  # fmt: skip


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = rng.normal(size=shape) * 3
    if dtype == "bool":
        return np.asarray(array > 0)
    return np.asarray(array + 1j * rng.normal(size=shape) if dtype.startswith("complex") else array).astype(dtype)


def operands(subscripts: str, dtype: str, *, length: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(len(subscripts))
    labels = sorted(set(subscripts) - set(",->"))
    sizes = {label: length or 2 + index % 3 for index, label in enumerate(labels)}
    return [draw(rng, tuple(sizes[label] for label in group), dtype) for group in subscripts.partition("->")[0].split(",")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("subscripts", CASES)
def test_every_lowering_agrees_with_numpy(subscripts: str, dtype: str) -> None:
    arrays = operands(subscripts, dtype)
    result, expected = np.asarray(contract(*arrays, subscripts=subscripts)), np.asarray(np.einsum(subscripts, *arrays))
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("subscripts", CASES)
def test_any_memory_order_and_broadcast_views_are_taken(subscripts: str) -> None:
    arrays = operands(subscripts, "float64")
    expected = np.einsum(subscripts, *arrays)
    reversed_order = [np.asarray(array, order="F") for array in arrays]
    np.testing.assert_allclose(contract(*reversed_order, subscripts=subscripts), expected, rtol=1e-12, atol=1e-12)
    ones = [np.broadcast_to(np.float64(1), array.shape) for array in arrays]
    np.testing.assert_allclose(contract(*ones, subscripts=subscripts), np.einsum(subscripts, *ones))


@pytest.mark.parametrize("subscripts", CASES)
def test_axes_without_elements(subscripts: str) -> None:
    rng = np.random.default_rng(0)
    groups, _, output = subscripts.partition("->")
    labels = sorted(set(groups) - {","})
    for empty in labels:
        sizes = {label: 0 if label == empty else 2 for label in labels}
        arrays = [rng.normal(size=[sizes[label] for label in group]) for group in groups.split(",")]
        result = contract(*arrays, subscripts=subscripts)
        assert np.shape(result) == tuple(sizes[label] for label in output)
        np.testing.assert_array_equal(result, np.einsum(subscripts, *arrays))


def test_a_large_batch_of_small_matrices() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(500, 3, 3)), rng.normal(size=(500, 3))
    np.testing.assert_allclose(contract(x, y, subscripts="bij,bj->bi"), np.einsum("bij,bj->bi", x, y), rtol=1e-12, atol=1e-13)
    x, y = rng.normal(size=(5, 30, 30)), rng.normal(size=(5, 30))
    np.testing.assert_allclose(contract(x, y, subscripts="bij,bj->bi"), np.einsum("bij,bj->bi", x, y), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(contract(y, x, subscripts="bi,bij->bj"), np.einsum("bi,bij->bj", y, x), rtol=1e-12, atol=1e-13)


def test_nan_and_inf_are_results() -> None:
    x, y = np.array([[0.0, np.inf], [1.0, 2.0]]), np.array([np.inf, 0.0])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(contract(x, y, subscripts="ij,j->i"), [np.nan, np.inf])


def test_a_path_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((3, 4))
    shapes = (x.shape, (4, 5), (5,))
    kernel = compiled("pq,qr,r->p", shapes)
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    assert compiled("pq,qr,r->p", shapes) is kernel
    np.testing.assert_array_equal(kernel(x, np.ones((4, 5)), np.ones(5)), [20.0] * 3)


def test_flops_follow_the_path() -> None:
    assert einsum_flops("ij->ji", (3, 4)) == 0
    assert einsum_flops("ij->j", (3, 4)) == 12
    assert einsum_flops("i,j->ij", (3,), (4,)) == 12
    assert einsum_flops("ij,jk->ik", (2, 3), (3, 4)) == 48
    assert einsum_flops("ij,jk,k->i", (100, 100), (100, 100), (100,)) == 4 * 100**2
    assert einsum_flops("ij,k->i", (2, 3), (4,)) == 6 + 4 + 2


def test_scratch_is_what_a_contraction_copies() -> None:
    assert lower("ij,jk->ik", ((20, 30), (30, 40))).scratch == 0
    assert lower("ji,kj->ik", ((30, 20), (40, 30))).scratch == 0
    assert lower("aibj,ji->ab", ((2, 3, 4, 5), (5, 3))).scratch == 2 * 3 * 4 * 5
    assert lower("ij,jk,k->i", ((9, 8), (8, 7), (7,))).scratch == 8


def test_a_mere_transpose_is_a_view() -> None:
    x = np.ones((2, 3))
    assert np.shares_memory(contract(x, subscripts="ij->ji"), x)
    assert contract(x, subscripts="ij->ij") is x
