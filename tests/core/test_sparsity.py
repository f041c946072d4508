"""Patterns of element sparsity, and Jacobians in the sparse layout: the same numbers as the dense ones, at no more places."""

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_core.errors import ArgumentError, GradwireError, LimitError
from gradwire_core.ops import find_primitive
from gradwire_core.program import Equation, Literal, Program, Var
from gradwire_core.structure.sparsity import MOST_ENTRIES, find_sparsity, residuals_of
from gradwire_core.structure.strategy import forcing
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, hessian, jacobian, sparse_hessian, sparse_jacobian
from gradwire_core.transforms.linearize import linearize
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples, programs, scalar_programs

WAYS = ("structured forward", "structured reverse", "coloured forward", "coloured reverse")


def support_of(function, *arrays):
    """The pattern that is found for the Jacobian of a function of one output in its first input, as a boolean matrix."""
    linear = linearize(gw.trace(function, *arrays), (0,))
    (output,), (tangent,), (dot,) = linear.outputs, linear.tangents, linear.tangent_outputs
    found = find_sparsity(
        linear.equations, [tangent.operand], [None if dot is None else dot.operand], [output.size], residuals_of(linear.builder)
    )
    return sparse.csr_array((np.ones(found.nnz, bool), found.indices, found.indptr), shape=found.shape).toarray()


def dense_of(function, *arrays):
    return gw.jacobian(function)(*arrays).reshape(-1, arrays[0].size)


@examples(50)
@given(programs())
def test_a_sparse_jacobian_is_the_dense_one(case):
    derived, specs = sparse_jacobian(case.program, case.argnums)
    dense = interpret(jacobian(case.program, case.argnums), case.arrays)
    for spec, entries, expected in zip(specs, interpret(derived, case.arrays), dense, strict=True):
        found = spec.fill([entries])
        assert found.has_sorted_indices
        assert found.has_canonical_format
        assert found.shape == spec.shape
        np.testing.assert_allclose(found.toarray(), expected.reshape(spec.shape), rtol=1e-9, atol=1e-9)


@examples(40)
@given(scalar_programs())
def test_a_sparse_hessian_is_the_dense_one(case):
    derived, specs = sparse_hessian(case.program, case.argnums)
    dense = interpret(hessian(case.program, case.argnums), case.arrays)
    for spec, entries, expected in zip(specs, interpret(derived, case.arrays), dense, strict=True):
        np.testing.assert_allclose(spec.fill([entries]).toarray(), expected.reshape(spec.shape), rtol=1e-9, atol=1e-9)


def test_a_number_that_is_zero_leaves_no_entries():
    assert not support_of(lambda x: np.einsum("i,,->i", x, np.sin(x[0]), np.zeros(())), np.ones(3)).any()


@pytest.mark.parametrize("way", WAYS)
@examples(50)
@given(case=programs(outputs=2, operations=5))
def test_every_way_gives_the_same_entries(way, case):
    derived, specs = sparse_jacobian(case.program, case.argnums)
    expected = interpret(derived, case.arrays)
    try:
        with forcing(way):
            other, places = sparse_jacobian(case.program, case.argnums)
    except LookupError:
        return
    for one, two in zip(specs, places, strict=True):
        np.testing.assert_array_equal(one.indices, two.indices)
        np.testing.assert_array_equal(one.indptr, two.indptr)
    for one, two in zip(expected, interpret(other, case.arrays), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


rng = np.random.default_rng(0)
X, V, INDEX = rng.normal(size=(3, 4)), rng.normal(size=7), np.array([3, 0, 3, 6])
W, MASKED = rng.normal(size=(4, 5)), np.triu(rng.normal(size=(7, 7)))
EXACT = {
    "slices": (lambda x: x[1:] * x[:-1], V),
    "pad": (lambda x: np.pad(x, 2)[1:-1] ** 2, V),
    "flip": (lambda x: x[::-1] * np.sin(x), V),
    "strides": (lambda x: x[::2] * x[1], V),
    "gather": (lambda x: x[INDEX] ** 2, V),
    "update": (lambda x: x.at[INDEX[:2]].set(x[1:3]), V),
    "scatter": (lambda x: x.at[INDEX].add(x[:4]), V),
    "concatenate": (lambda x: np.concatenate([x[:, 1:], x[:, :1]], 1), X),
    "stack": (lambda x: np.stack([x, x**2], 1), X),
    "transpose": (lambda x: x.T * 2, X),
    "reshape": (lambda x: np.reshape(x, (2, 6)) ** 2, X),
    "broadcast": (lambda x: np.broadcast_to(x[0], (5, 4)) * 1.5, X),
    "sum": (lambda x: np.sum(x, axis=0) ** 2, X),
    "cumsum": (lambda x: np.cumsum(x, axis=1), X),
    "convolution": (lambda x: np.convolve(x, W[0]), V),
    "convolution of a few": (lambda x: np.convolve(V, x)[2:] ** 2, X[0]),
    "matmul": (lambda x: x @ W, X),
    "matmul left": (lambda x: W.T @ x.T, X),
    "diagonal": (lambda x: np.diagonal(x @ W), X),
    "trace": (np.trace, X),
    "outer": (lambda x: x[:, None] * x[None, :], V),
    "solve": (lambda x: np.linalg.solve(4 * np.eye(3) + X[:, :3], x), X),
    "fft": (lambda x: np.fft.rfft(x, axis=0).real + 0.0, X[:, :2]),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_pattern_holds_what_is_not_zero_and_nothing_else(name):
    function, x = EXACT[name]
    np.testing.assert_array_equal(support_of(function, x), dense_of(function, x) != 0)


def test_masks_of_literals_are_zeros():
    with_mask = gw.jacobian(lambda x, w: (np.triu(np.ones((7, 7))) * w) @ np.tanh(x), layout="sparse")
    assert with_mask(V, MASKED).nnz == 7 * 8 // 2
    selected = gw.jacobian(lambda x: np.where(np.arange(7) > 4, x * np.roll(x, 1), 0.0), layout="sparse")
    assert selected(V).nnz == 2 * 2


def test_loops_are_followed_step_by_step():
    def decay(x):
        return gw.scan(lambda carry, item: (carry * 0.5 + item, carry * item), np.zeros(()), x)[1]

    found = gw.jacobian(decay, layout="sparse")(V)
    np.testing.assert_allclose(found.toarray(), gw.jacobian(decay)(V), atol=1e-12)
    assert found.nnz == 7 * 8 // 2 - 0

    def shift(x):
        """Each step sees the last two items alone."""
        return gw.scan(lambda carry, item: (item, carry * item), np.zeros(()), x)[1]

    found = gw.jacobian(shift, layout="sparse")(V)
    np.testing.assert_allclose(found.toarray(), gw.jacobian(shift)(V), atol=1e-12)
    assert found.nnz == 2 * 7 - 1


def test_branches_are_united():
    def either(x, flag):
        return gw.cond(flag > 0, lambda x: x[::-1] * 2, lambda x: x * x, x)

    for flag in (1.0, -1.0):
        found = gw.jacobian(either, layout="sparse")(V, np.asarray(flag))
        assert found.nnz == 2 * 7 - 1
        np.testing.assert_allclose(found.toarray(), gw.jacobian(either)(V, np.asarray(flag)), atol=1e-12)


def test_dense_edges_are_never_expanded():
    """A rank-one map between two vectors of 3000 elements has 6000 edges and a hub, and 9 million entries."""
    program = gw.trace(lambda x: np.sum(x) * np.ones(3000) + np.sum(np.sin(x)), np.zeros(3000))
    linear = linearize(program, (0,))
    narrow = linearize(gw.trace(lambda x: np.sum(np.sum(x) * np.ones(100_000)), np.zeros(100_000)), (0,))
    for item, entries in ((linear, 9_000_000), (narrow, None)):
        found = find_sparsity(
            item.equations,
            [item.tangents[0].operand],
            [item.tangent_outputs[0].operand],
            [item.outputs[0].size],
            residuals_of(item.builder),
        )
        assert found.nnz == (entries or 100_000)


def test_too_many_entries_are_refused_with_advice():
    count = 5000
    assert count**2 > MOST_ENTRIES
    with pytest.raises(
        LimitError, match=r"needed at most .* entries .* got more in 5000 x 5000; ask for it with layout='structured'"
    ):
        sparse_jacobian(gw.trace(lambda x: np.sum(x) * np.sin(x), np.zeros(count)))


@pytest.mark.parametrize(
    ("chain", "given"),
    [((), "the value"), (("grad",), "grad"), (("jacobian", "vmap"), "vmap of jacobian"), (("jacobian_det",), "jacobian_det")],
)
def test_a_sparse_layout_needs_a_jacobian_last(chain, given):
    program = gw.trace(np.sin, np.ones(3))
    transforms = tuple(Transform(name, in_axes=(0,), axis_size=2) if name == "vmap" else Transform(name) for name in chain)
    with pytest.raises(ArgumentError, match=f"ends in jacobian or hessian for a sparse layout, got {given}; ask for it dense"):
        compile(program, [Output(transforms, "sparse")])


def test_a_sparse_result_is_the_callers_own():
    found = compile(gw.trace(lambda x: x[1:] * x[:-1], V), [Output((Transform("jacobian"),), "sparse")])
    ((first,),), expected = found.run([V]), dense_of(lambda x: x[1:] * x[:-1], V)
    first.indices[:] = 0
    first.indptr[:] = 0
    first.data[:] = 0
    ((second,),) = found.run([V])
    np.testing.assert_allclose(second.toarray(), expected)


def test_sparse_jacobians_of_several_outputs_and_inputs():
    def function(x, y):
        return x[1:] * y[:-1], np.sum(x) * y, x * 0.0

    x, y = rng.normal(size=6), rng.normal(size=6)
    program = gw.trace(function, x, y)
    derived, specs = sparse_jacobian(program, (0, 1))
    dense = interpret(jacobian(program, (0, 1)), [x, y])
    for spec, entries, expected in zip(specs, interpret(derived, [x, y]), dense, strict=True):
        np.testing.assert_allclose(spec.fill([entries]).toarray(), expected, atol=1e-12)
    assert [len(spec.indices) for spec in specs] == [5, 5, 36, 6, 0, 0]


def test_a_jacobian_without_elements():
    derived, (spec,) = sparse_jacobian(gw.trace(lambda x: np.concatenate([x, x]), np.zeros(0)))
    (entries,) = interpret(derived, [np.zeros(0)])
    assert spec.fill([entries]).shape == (0, 0)


def test_a_program_without_outputs_has_a_jacobian_without_entries():
    program = gw.trace(np.sin, np.ones(3))
    nothing = Program(program.inputs, program.equations, ())
    assert compile(nothing, [Output((Transform("jacobian"),), "sparse")]).run([np.ones(3)]) == [[]]


def test_a_constant_index_out_of_range_is_refused_when_it_runs():
    x = Var(TensorType(Dtype.FLOAT64, (3,)))
    take = Equation(
        find_primitive("take"), (x, Literal(np.array([0, 3]))), {"axis": 0, "batch": 0}, (Var(TensorType(Dtype.FLOAT64, (2,))),)
    )
    executable = compile(Program((x,), (take,), take.results), [Output(), Output((Transform("jacobian"),), "sparse")])
    with pytest.raises(ArgumentError, match="take: needed indices within their axis"):
        executable.run([np.ones(3)])


def test_a_constant_index_out_of_range_whose_derivative_scatters_is_refused():
    x, type, scalar = Var(TensorType(Dtype.FLOAT64, (3,))), TensorType(Dtype.FLOAT64, (2,)), Var(TensorType(Dtype.FLOAT64, ()))
    takes = [
        Equation(find_primitive("take"), (x, Literal(np.array(indices))), {"axis": 0, "batch": 0}, (Var(type),))
        for indices in ([0, -100], [2, 1])
    ]
    product = Equation(find_primitive("multiply"), (*takes[0].results, *takes[1].results), {}, (Var(type),))
    total = Equation(find_primitive("sum"), product.results, {"axes": (0,)}, (scalar,))
    outputs = [Output(), Output((Transform("grad"), Transform("jacobian")))]
    with pytest.raises(GradwireError):  # when it is derived or when it runs
        compile(Program((x,), (*takes, product, total), (scalar,)), outputs).run([np.ones(3)])


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (2, 0, 3)])
@pytest.mark.parametrize("name", ["cumsum", "reversed cumsum", "cumprod", "flip", "sort", "diff"])
def test_a_running_sum_of_nothing_has_no_entries(shape, name):
    functions = {
        "cumsum": lambda x: np.cumsum(x, axis=-1),
        "reversed cumsum": lambda x: np.cumsum(x[..., ::-1], axis=-1)[..., ::-1],
        "cumprod": lambda x: np.cumprod(x, axis=0),
        "flip": lambda x: np.flip(x, axis=0),
        "sort": lambda x: np.sort(x, axis=-1),
        "diff": lambda x: x[1:] - x[:-1],
    }
    found = gw.jacobian(functions[name], layout="sparse")(np.zeros(shape))
    assert found.nnz == 0
