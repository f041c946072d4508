"""Contractions: every lowering agrees with numpy.einsum, and none searches or copies where it need not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gradwire_core.einsum import compiled, contract, einsum_flops, lower, natural_labels, search_path

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


def test_a_path_weighs_time_rather_than_operations() -> None:
    # The fewest operations would multiply both pairs, and each by "ec", before the product that BLAS makes.
    groups = "cd,ed,ab,af,ac,ae"
    shapes = ((10, 3), (10, 3), (1000, 8), (1000, 8), (1000, 10), (1000, 10))
    pairs = search_path(f"{groups}->febc", shapes, (0, 0, 2, 2, 4, 4))
    assert {frozenset(pair[:2]) for pair in pairs} >= {frozenset({2, 4}), frozenset({3, 5}), frozenset({0, 1})}
    assert len(pairs) == 5
    assert set(pairs[-1].labels) == set("febc")


def test_equal_operands_are_paired_alike() -> None:
    # Apart, two scalings of 90 x 400 are more than one; alike, both are made at once, and their product is half the work.
    shapes = ((90, 400), (90, 400), (90,), (90,))
    assert {frozenset(pair[:2]) for pair in search_path("si,sj,s,s->ij", shapes, (0, 0, 2, 2))} >= {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    assert {2, 3} in [set(pair[:2]) for pair in search_path("si,sj,s,s->ij", shapes, (0, 1, 2, 3))]


@pytest.mark.parametrize("count", [3, 5, 7, 9])
def test_paths_of_few_and_of_many_operands(count: int) -> None:
    rng = np.random.default_rng(count)
    arrays = [rng.normal(size=(2, 2, 2)) for _ in range(count)]
    letters = "abcdefghijk"
    groups = [letters[index : index + 3] for index in range(count)]
    subscripts = f"{','.join(groups)}->{letters[0]}{letters[count + 1]}"
    assert len(search_path(subscripts, ((2, 2, 2),) * count, tuple(range(count)))) == count - 1
    np.testing.assert_allclose(contract(*arrays, subscripts=subscripts), np.einsum(subscripts, *arrays), rtol=1e-12, atol=1e-12)


def test_an_inner_axis_is_not_a_short_one() -> None:
    sizes = {"s": 1000, "i": 3, "j": 4, "k": 500}
    assert natural_labels(("si", "sj"), "sij", "ij", sizes) == "ijs"
    assert natural_labels(("si", "sj"), "sij", "sij", sizes) == "sij"  # a batch
    assert natural_labels(("si", "sk"), "sik", "ik", sizes) == "sik"
    assert natural_labels(("si", "sj"), "ij", "ij", sizes) == "ij"
    assert natural_labels(("s", "s"), "s", "", sizes) == "s"


def test_a_product_in_another_order_is_row_major() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 3)), rng.normal(size=(100, 4))
    result = contract(x, y, subscripts="si,sj->ijs")
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.einsum("si,sj->ijs", x, y))
    assert lower("si,sj->ijs", (x.shape, y.shape)).scratch == x.size + y.size
    assert lower("si,is->si", ((100, 3), (3, 100))).scratch == 0


def test_seconds_follow_blas() -> None:
    def seconds(subscripts: str, *shapes: tuple[int, ...]) -> float:
        return lower(subscripts, shapes).seconds

    square = seconds("ij,jk->ik", (500, 500), (500, 500))
    assert seconds("ij,jk->ik", (1000, 1000), (1000, 1000)) == pytest.approx(8 * square, rel=0.1)
    assert seconds("ij,jk->ik", (500, 500), (500, 500)) < seconds("ij,jk->ik", (2, 250_000), (250_000, 250))
    assert seconds("bij,bjk->bik", (1000, 3, 3), (1000, 3, 3)) > 20 * 54e3 * 2.3e-11
    assert seconds("a,b->ab", (1000,), (1000,)) < seconds("abc,ab->abc", (1000, 500, 2), (1000, 500))
    assert seconds("ij->ji", (1000, 1000)) < seconds("ij->j", (1000, 1000))
    assert seconds("ij,jk,k->i", (100, 100), (100, 100), (100,)) < seconds("ij,jk->ik", (100, 100), (100, 100))
    assert lower("si,sj->ij", ((99, 500), (99, 500)), symmetric=True).seconds < seconds("si,sj->ij", (99, 500), (99, 500))


def test_a_mere_transpose_is_a_view() -> None:
    x = np.ones((2, 3))
    assert np.shares_memory(contract(x, subscripts="ij->ji"), x)
    assert contract(x, subscripts="ij->ij") is x


@pytest.mark.parametrize(
    "subscripts", ["db,d,d,ea,cb,c,a->", "ab,ab,ab,ab,ab,ab,ab,ab->", "abcd,abcd,abcd,abcd,abcd,abcd,abcd,abcd->ad"]
)
def test_many_operands_with_sums_of_their_own(subscripts: str) -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 2, "b": 3, "c": 2, "d": 3, "e": 3}
    groups, _ = subscripts.split("->")
    arrays = [rng.normal(size=[sizes[label] for label in group]) for group in groups.split(",")]
    np.testing.assert_allclose(contract(*arrays, subscripts=subscripts), np.einsum(subscripts, *arrays), rtol=1e-12, atol=1e-12)
