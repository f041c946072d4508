"""Strategies: all ways give the same numbers, the cheapest one is taken, and what cannot win is not built."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

import gradwire as gw
from gradwire_core import engine
from gradwire_core.engine import Output, compile
from gradwire_core.structure.cost import Cost, predict, written
from gradwire_core.structure.strategy import (
    BY_TERMS,
    ENOUGH,
    Choice,
    Way,
    choose,
    forcing,
    preferring,
    record,
    recording,
    serving,
    show_seconds,
)
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, hessian, jacobian
from gradwire_core.transforms.differential import COLOURS_EFFORT, Differential, _TooDearError, linearize_checked
from gradwire_core.transforms.grad import grad
from tests.core.strategies import examples, programs, scalar_programs

WAYS = (
    "structured forward", "structured reverse", "cross-country", "coloured forward", "coloured reverse", "star colouring",
    "dense forward", "dense reverse",
)  # fmt: skip
rng = np.random.default_rng(0)


def choice_of(function, *arrays, transform="jacobian", layout="dense"):
    executable = compile(gw.trace(function, *arrays), [Output((Transform(transform),), layout)])
    (choice,) = executable.plan.choices
    return choice, executable


def tridiagonal(x):
    p = np.pad(x, 1)
    return (3 - 2 * x) * x - p[:-2] - 2 * p[2:]


def products(x):
    for _ in range(12):
        x = np.concatenate([x[1:] * x[:-1], x[-1:]])
    return x


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def narrow(*sizes):
    weights = [rng.normal(size=pair) / np.sqrt(pair[1]) for pair in zip(sizes[1:], sizes[:-1], strict=True)]

    def function(x):
        for weight in weights:
            x = np.tanh(weight @ x)
        return x

    return function


def links(q):
    x = y = 0.0
    for index in range(len(q)):
        c, s = np.cos(q[index]), np.sin(q[index])
        x, y = c * (x + 1.0) - s * y, s * (x + 1.0) + c * y
    return np.stack([x, y])


# -- every way gives the same ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@examples(30)
@given(case=programs(outputs=2, operations=5))
def test_every_way_gives_the_same_jacobian(way, case):
    expected = interpret(jacobian(case.program, case.argnums), case.arrays)
    try:
        with forcing(way):
            forced = jacobian(case.program, case.argnums)
    except LookupError:
        return
    for one, other in zip(expected, interpret(forced, case.arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
@examples(30)
@given(case=scalar_programs())
def test_every_way_gives_the_same_hessian(way, case):
    expected = interpret(hessian(case.program, case.argnums), case.arrays)
    try:
        with forcing(way):
            forced = hessian(case.program, case.argnums)
    except LookupError:
        return
    for one, other in zip(expected, interpret(forced, case.arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("function", "x", "transform", "ways"),
    [
        (tridiagonal, rng.normal(size=20), "jacobian", [*WAYS[:2], *WAYS[3:5], *WAYS[6:]]),
        (products, rng.normal(size=20), "jacobian", [*WAYS[:2], *WAYS[3:5], *WAYS[6:]]),
        (rosenbrock, rng.normal(size=20), "hessian", [*WAYS[:2], "coloured forward", "star colouring", *WAYS[6:]]),
        (narrow(20, 15, 3, 15, 20), rng.normal(size=20), "jacobian", [*WAYS[:3], *WAYS[6:]]),
    ],
)
def test_the_ways_there_are(function, x, transform, ways):
    program = gw.trace(function, x)
    derive = {"jacobian": jacobian, "hessian": hessian}[transform]
    inputs = [x, *program.captured]
    (expected,) = interpret(derive(program), inputs)
    for way in WAYS:
        if way in ways:
            with forcing(way):
                (found,) = interpret(derive(program), inputs)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        else:
            with forcing(way), pytest.raises(LookupError):
                derive(program)


# -- what is chosen --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "x", "transform", "layout", "chosen"),
    [
        (np.sin, np.ones(100), "jacobian", "dense", "structured forward"),
        (tridiagonal, np.ones(5000), "jacobian", "sparse", "structured forward"),
        (products, np.ones(400), "jacobian", "sparse", "coloured forward"),
        (products, np.ones(200), "jacobian", "dense", "coloured forward"),
        (rosenbrock, np.ones(5000), "hessian", "sparse", "structured forward"),
        (lambda x: np.sum(np.sin(x)), np.ones(50), "hessian", "dense", "structured"),
        (narrow(400, 30, 4), np.ones(400), "jacobian", "dense", "structured"),
        (narrow(4, 30, 400), np.ones(4), "jacobian", "dense", "forward"),
        (narrow(200, 200, 4, 200, 200), np.ones(200), "jacobian", "dense", "structured"),
    ],
)
def test_the_way_that_is_taken(function, x, transform, layout, chosen):
    choice, _ = choice_of(function, x, transform=transform, layout=layout)
    assert chosen in choice.chosen
    names = [name for name, _ in choice.predictions]
    assert len(set(names)) == len(names)
    taken = dict(choice.predictions)[choice.chosen].seconds
    assert all(cost.seconds >= (taken / ENOUGH if cost.is_bound else 0.98 * taken) for _, cost in choice.predictions)


def test_a_plan_tells_the_choice_and_what_was_rejected():
    choice, executable = choice_of(tridiagonal, np.ones(300))
    assert choice.what == "jacobian of float64[300] by float64[300]"
    assert f"  strategy     {choice}" in executable.plan.report
    assert "; rejected: structured reverse" in str(choice)
    assert "dense reverse at least" in str(choice)


def test_every_output_makes_its_choice():
    program = gw.trace(lambda x: np.sum(x**3), np.ones(4))
    plan = compile(program, [Output(), Output((Transform("grad"), Transform("jacobian"))), Output((Transform("hessian"),))]).plan
    assert [choice.what.split()[0] for choice in plan.choices] == ["jacobian", "hessian"]


def test_an_elementwise_function_has_one_way():
    choice, _ = choice_of(lambda x: np.tanh(np.sin(x) * 2.0), np.ones(50))
    assert [name for name, _ in choice.predictions] == ["structured forward"]


def test_ways_by_terms_are_given_up_where_another_is_certain_to_be_cheaper():
    choice, _ = choice_of(products, np.ones(40))
    assert dict(choice.predictions)["structured forward"].is_bound
    assert dict(choice.predictions)["structured reverse"].is_bound


# -- memory ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["structured forward", "structured reverse", "coloured forward", "coloured reverse"])
@pytest.mark.parametrize("function", [tridiagonal, lambda x: np.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])])
def test_no_array_of_a_sparse_jacobian_is_larger_than_a_few_of_its_entries(function, way):
    count = 3000
    with forcing(way):
        _, executable = choice_of(function, np.ones(count), layout="sparse")
    arrays = [var.type.size for equation in executable.program.equations for var in equation.results]
    assert max(arrays) <= 3 * 2 * count
    assert executable.plan.peak_bytes <= 20 * 3 * count * 8


def test_a_dense_jacobian_by_colours_takes_little_more_than_itself():
    count = 300
    choice, executable = choice_of(products, np.ones(count))
    assert "coloured" in choice.chosen
    assert executable.plan.peak_bytes <= 2.5 * count**2 * 8
    found, expected = executable.run([np.linspace(0.9, 1.1, count)])[0][0], gw.jacobian(products)(np.linspace(0.9, 1.1, count))
    np.testing.assert_allclose(found, expected)


# -- the narrowest value -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "size"),
    [
        (narrow(20, 15, 3, 15, 20), 3),
        (narrow(20, 15, 20), 15),
        (lambda x: np.sum(x) * np.cos(x), 20),  # x goes past the sum
        (lambda x: np.sin(np.sum(x)) * np.ones(20), 1),
    ],
)
def test_the_narrowest_value_that_all_paths_go_through(function, size):
    linear = linearize_checked(gw.trace(function, np.ones(20)), (0,))
    assert Differential(linear).narrowest[1] == size


# -- choosing ----------------------------------------------------------------------------------------------------------------


def way(name, least, cost, built, **flags):
    def build(limit):
        built.append((name, limit))
        return None if cost is None else (name if cost < limit else None, Cost(work=cost))

    return Way(name, lambda: Cost(work=least), build, **flags)


def test_a_way_is_built_where_it_may_win():
    built = []
    ways = [way("a", 1, 5, built), way("b", 6, 7, built), way("c", 3.5, 4.5, built), way("d", 2, None, built)]
    with recording() as choices:
        assert choose("it", ways, Cost(work=1)) == "c"
    assert [name for name, _ in built] == ["a", "c", "d"]
    (choice,) = choices
    assert choice.chosen == "c"
    assert [(name, cost.seconds, cost.is_bound) for name, cost in choice.predictions] == [
        ("a", 5, False), ("b", 6, True), ("c", 4.5, False)
    ]  # fmt: skip


def test_a_way_that_could_spare_little_is_built_if_it_is_certain():
    for flag, chosen in ((False, "a"), (True, "b")):
        ways = [way("a", 1, 5, []), way("b", 4.5, 4.5, [], is_certain=flag)]
        assert choose("it", ways, Cost(work=1)) == chosen


def test_nothing_more_is_built_once_the_best_is_near_what_all_must_cost():
    built = []
    assert choose("it", [way("a", 1, 1.2, built), way("b", 1, 1.1, built)], Cost(work=1)) == "a"
    assert built == [("a", float("inf"))]


def test_a_certain_way_limits_the_others():
    built = []
    assert choose("it", [way("a", 1, 50, built), way("b", 8, 9, built, is_certain=True)], Cost(work=1)) == "b"
    assert built == [("a", 10.0), ("b", float("inf"))]


def test_records_are_kept_where_asked_alone():
    choice = Choice("it", "a", (("a", Cost()),))
    record(choice)
    with recording() as outer:
        with recording() as inner:
            record(choice)
        assert inner == [choice]
        assert outer == []


# -- costs -------------------------------------------------------------------------------------------------------------------


def predicted(function, *arrays):
    return predict(gw.trace(function, *arrays))


def test_costs_are_ordered_as_they_are_measured():
    x, matrix = np.ones(10_000), np.ones((300, 300))
    move, product = predicted(lambda x: x[::2], x), predicted(lambda x: x * x, x)
    sine, scattered = predicted(np.sin, x), predicted(lambda x: x.at[np.arange(10_000) // 2].add(x), x)
    times = [move.seconds, product.seconds, sine.seconds, scattered.seconds]
    assert times == sorted(times)
    assert predicted(lambda a: a @ a, matrix).seconds > 5 * predicted(lambda a: a + a, matrix).seconds
    assert written(2**24).seconds > written(2**16).seconds


def test_costs_add_and_repeat():
    one, two = Cost(1.0, 8, 1, 1e-6, 2e-6), Cost(2.0, 16, 1, 1e-6, 4e-6, is_bound=True)
    assert one + two == Cost(3.0, 24, 2, 2e-6, 6e-6, is_bound=True)
    assert one.columns(8) == Cost(8.0, 64, 1, 1e-6, 16e-6)
    assert one.at_least().is_bound
    assert [show_seconds(Cost(work=value)) for value in (2.0, 3e-3, 4e-6)] == ["2 s", "3 ms", "4 us"]
    assert show_seconds(two) == "at least 5 us"


def test_a_loop_costs_its_steps():
    def loop(length):
        return predicted(lambda x: gw.scan(lambda carry, item: (carry * item, carry), x[0], x)[0], np.ones(length))

    assert 5 < loop(100).seconds / loop(10).seconds < 12


# -- symmetry ----------------------------------------------------------------------------------------------------------------


def test_a_derivative_of_ones_own_need_not_be_symmetric():
    """The rule says that the derivative of x[1:] x[0] in x[0] is 0: so does the Hessian, which no star colouring may read."""

    def function(x):
        half = gw.custom_derivative(lambda x: x[1:] * x[0], lambda primals, tangents: tangents[0][1:] * primals[0][0])
        return np.sum(half(x) ** 2)

    x = rng.normal(size=12)
    program = gw.trace(function, x)
    (expected,) = interpret(jacobian(gw.trace(gw.grad(function), x)), [x])
    assert not np.allclose(expected, expected.T)
    for layout in ("dense", "sparse"):
        found = compile(program, [Output((Transform("hessian"),), layout)]).run([x])[0][0]
        np.testing.assert_allclose(found if layout == "dense" else found.toarray(), expected)
    with forcing("star colouring"), pytest.raises(LookupError):
        hessian(program)


def test_equal_entries_of_a_hessian_are_computed_once():
    """H[i, i + 1] and H[i + 1, i] are one array of 3000 numbers, gathered twice."""
    choice, executable = choice_of(rosenbrock, np.ones(3000), transform="hessian", layout="sparse")
    assert "structured" in choice.chosen
    (pool,) = [equation for equation in executable.program.equations if equation.primitive.name == "concatenate"]
    assert sum(operand.type.size for operand in pool.operands) <= 3 * 3000


# -- what is infinite stays in its place -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("function", "transform"),
    [
        (lambda x: np.sqrt(x)[:-1] - x[1:], "jacobian"),
        (lambda x: np.tanh(MIXING @ np.sqrt(x)), "jacobian"),
        (lambda x: np.sum(np.sqrt(x)) + rosenbrock(x), "hessian"),
    ],
)
def test_an_infinite_partial_does_not_reach_other_entries(function, transform, way, layout):
    x = np.arange(6.0) / 4
    program = gw.trace(function, x)
    output = [Output((Transform(transform),), layout)]
    inputs = [x, *program.captured]
    with preferring(BY_TERMS):
        ((expected,),) = compile(program, output).run(inputs)
    try:
        with forcing(way):
            made = compile(program, output)
    except LookupError:
        return
    with np.errstate(all="ignore"):
        for _ in range(2):
            ((found,),) = made.run(inputs)
            dense, wanted = (found, expected) if layout == "dense" else (found.toarray(), expected.toarray())
            assert np.isinf(dense).any()
            assert not np.isnan(dense).any()
            np.testing.assert_allclose(dense, wanted, rtol=1e-12)


MIXING = rng.uniform(1, 2, size=(4, 6))


def test_what_by_terms_takes_too_much_memory_stays_as_it_is(monkeypatch):
    x = np.arange(6.0) / 4
    program = gw.trace(lambda x: np.sqrt(x)[:-1] - x[1:], x)
    with forcing("dense forward"):
        made = compile(program, [Output((Transform("jacobian"),))])
    monkeypatch.setattr(engine, "FREE_BYTES", 0)
    found = []
    for factor in (1, 10**6):
        assert made.by_terms is not None
        other = made.by_terms.get()
        monkeypatch.setattr(other, "plan", dataclasses.replace(other.plan, peak_bytes=factor))
        with np.errstate(all="ignore"):
            found.append(np.isnan(made.run([x])[0][0]).any())
    assert found == [False, True]


def test_finite_results_are_not_computed_twice():
    program = gw.trace(lambda x: np.exp(x)[1:] * x[:-1], np.ones(6))
    with forcing("coloured forward"):
        made = compile(program, [Output((Transform("jacobian"),))])
    assert made.by_terms is not None
    for x in (1.0, 703.0):  # of which the entries are finite, and their sum is not
        made.run([np.full(6, x)])
    assert made.by_terms._made is None


# -- what is given up ----------------------------------------------------------------------------------------------------------


def many_products(x):
    for _ in range(50):
        x = x[1:] * x[:-1]
    return np.sum(x)


def test_terms_are_given_up_at_the_pace_of_what_they_cost():
    gradient = grad(gw.trace(many_products, np.ones(100)), (0,))
    found = Differential(linearize_checked(gradient, (0,)), is_symmetric=True)
    before = len(found.builder.equations)
    limit = (found.floor + found.sweep_cost(100, is_forward=True)).seconds
    with pytest.raises(_TooDearError):
        found.forward_terms(limit)
    assert len(found._accumulations["forward"].spent) < len(found.linear.equations) / 3
    built = len(found.builder.equations)
    assert built - before < 3 * len(found.linear.equations)
    with pytest.raises(_TooDearError):
        found.reverse_terms(limit)  # of a symmetric matrix, which would cost as much
    assert len(found.builder.equations) == built
    with pytest.raises(_TooDearError):
        found.forward_terms(limit)  # what is there already costs as much as when it was built
    assert len(found.builder.equations) == built


def test_terms_that_were_given_up_go_on_where_they_stopped():
    def steps(x):
        for _ in range(20):
            x = np.sin(x) * x[::-1]
        return x

    program = gw.trace(steps, np.ones(1000))
    whole, parts = [Differential(linearize_checked(program, (0,))) for _ in range(2)]
    expected = whole.forward_terms(np.inf)
    total = whole._accumulations["forward"].spent[-1]
    with pytest.raises(_TooDearError):
        parts.forward_terms(parts.residual_cost.seconds + total / 3)
    assert 0 < len(parts._accumulations["forward"].spent) < len(parts.linear.equations)
    found = parts.forward_terms(np.inf)
    assert parts._accumulations["forward"].spent == whole._accumulations["forward"].spent
    assert len(parts.builder.equations) == len(whole.builder.equations)
    assert len(found[0][0]) == len(expected[0][0])


def test_patterns_are_not_looked_for_where_they_could_spare_little():
    with recording() as choices, serving(calls=20):
        jacobian(gw.trace(narrow(*[10] * 10), np.ones(10)))
    predictions = dict(choices[0].predictions)
    coloured, chosen = predictions["coloured forward"], predictions[choices[0].chosen]
    assert coloured.is_bound
    assert 20 * (chosen.seconds - coloured.seconds) < 20 * COLOURS_EFFORT  # of two linear equations a layer


def test_terms_that_cost_the_same_at_every_step_are_not_given_up():
    def steps(x):
        for _ in range(50):
            x = np.sin(x) * np.cos(x[::-1])
        return x

    found = Differential(linearize_checked(gw.trace(steps, np.ones(1000)), (0,)))
    terms = found.forward_terms(np.inf)
    spent = found._accumulations["forward"].spent
    assert len(spent) == len(found.linear.equations)
    again = Differential(linearize_checked(gw.trace(steps, np.ones(1000)), (0,)))
    assert len(again.forward_terms(again.residual_cost.seconds + 1.25 * spent[-1])[0][0]) == len(terms[0][0])


# -- what is worth exploring -----------------------------------------------------------------------------------------------


def test_a_small_jacobian_is_not_explored():
    choice, executable = choice_of(links, np.ones(3))
    built = [name for name, cost in choice.predictions if not cost.is_bound]
    assert built == [choice.chosen]
    assert len(choice.predictions) == 6
    with serving(1e9):
        every = recorded_choice(links, np.ones(3))
    assert sum(not cost.is_bound for _, cost in every.predictions) > 1
    x = rng.normal(size=3)
    np.testing.assert_allclose(executable.run([x])[0][0], interpret(jacobian(gw.trace(links, x)), [x])[0], rtol=1e-12)


def recorded_choice(function, *arrays):
    with recording() as choices:
        jacobian(gw.trace(function, *arrays))
    return choices[0]


def test_a_jacobian_within_a_function_is_explored():
    built = [name for name, cost in recorded_choice(links, np.ones(3)).predictions if not cost.is_bound]
    assert len(built) > 1


def test_a_large_jacobian_is_explored():
    choice, _ = choice_of(products, np.ones(200))
    assert sum(not cost.is_bound for _, cost in choice.predictions) > 1


@pytest.mark.parametrize(("calls", "chosen"), [(1.0, "certain"), (1e6, "by analysis")])
def test_a_way_is_left_out_that_cannot_give_back_what_building_it_takes(calls, chosen):
    def way(name, seconds, **given):
        return Way(name, lambda: Cost(work=1e-6), lambda limit: (name, Cost(work=seconds)), **given)

    ways = [way("by analysis", 1e-5, effort=1e-3), way("certain", 1e-4, is_certain=True, effort=1e-4)]
    ways[1] = dataclasses.replace(ways[1], least=lambda: Cost(work=1e-4))
    with serving(calls):
        assert choose("it", ways, Cost(work=1e-6)) == chosen


def test_what_is_known_of_floats_bounds_what_exploring_may_spare():
    def build(limit):
        raise AssertionError

    ways = [
        Way("by analysis", Cost, build, effort=1e-3),
        Way("certain", lambda: Cost(work=1.0), lambda limit: ("it", Cost(work=1.0)), is_certain=True),
    ]
    with serving(100.0):
        assert choose("it", ways, Cost(), ceiling=1e-6) == "it"


@pytest.mark.parametrize("transform", [gw.jacobian, gw.hessian])
@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_there_is_a_way_where_there_is_nothing_to_compute(transform, shape):
    function = (lambda a, b, c: a * b + c) if transform is gw.jacobian else (lambda a, b, c: np.sum(a * b * c))
    arrays = (np.ones(shape), np.float64(2.0), np.float64(3.0))
    rows = transform(function, argnums=(0, 1, 2))(*arrays)
    assert all(np.isfinite(item).all() for item in (rows if transform is gw.jacobian else sum(rows, ())))


def test_ways_of_few_equations_are_compared_by_what_the_passes_leave():
    def steps(x):
        return gw.scan(lambda carry, row: (np.sin(carry) * row, carry), x, np.ones((4, 3)))[0]

    choice, executable = choice_of(steps, np.ones(3))
    (loop,) = [item for item in executable.program.equations if item.primitive.name == "scan"]  # that of the primal is in it
    assert dict(choice.predictions)[choice.chosen].seconds == pytest.approx(predict(executable.program).seconds, rel=1e-12)
    assert loop in executable.program.equations


def test_floats_are_not_expected_of_what_they_cannot_compute():
    def scattered(x):
        return np.sin(x.at[np.array([0, 0])].add(x[:2]))

    assert np.isinf(Differential(linearize_checked(gw.trace(scattered, np.ones(3)), (0,))).ceiling)
    assert np.isfinite(Differential(linearize_checked(gw.trace(np.sin, np.ones(3)), (0,))).ceiling)


def test_broadcasts_cost_where_they_are_made():
    def overhead(function):
        return predict(gw.trace(function, np.ones(3))).overhead

    read = overhead(lambda x: np.sin(np.broadcast_to(x, (4, 3)))) - overhead(np.sin)
    made = overhead(lambda x: np.cumsum(np.broadcast_to(x, (4, 3)), 0)) - overhead(lambda x: np.cumsum(x, 0))
    assert made > read > 0


def test_no_pattern_is_found_where_colours_have_nothing_to_spare():
    def rotated(q):
        x, y = q[0], q[1]
        for place in range(2, 16):
            x, y = np.cos(q[place]) * x - np.sin(q[place]) * y, np.sin(q[place]) * x + np.cos(q[place]) * y
        return np.stack([x, y * x])

    program = gw.trace(rotated, np.ones(16))
    found = Differential(linearize_checked(program, (0,)))
    with recording() as choices:
        jacobian(program)
    (choice,) = choices
    predictions = dict(choice.predictions)
    for direction in ("forward", "reverse"):
        dense, coloured = predictions[f"dense {direction}"], predictions[f"coloured {direction}"]
        assert not dense.is_bound
        assert coloured.is_bound
        given = {"is_forward": direction == "forward"}
        spared = found.sweep_cost(max(found.shape), **given).seconds - found.sweep_cost(1, **given).seconds
        assert dense.seconds - spared <= coloured.seconds <= dense.seconds


def test_colours_are_looked_at_first_where_they_may_spare_much():
    (choice, _) = choice_of(tridiagonal, rng.normal(size=3000))
    assert choice.chosen.startswith(("coloured", "structured"))
    assert all(cost.is_bound for name, cost in choice.predictions if name.startswith("dense"))
