"""Every function that NumPy dispatches, and every ufunc of scipy.special: it computes NumPy's values, or is refused by its name."""

import functools
import itertools
import warnings

import numpy as np
import pytest
import scipy.special

import gradwire as gw

V = np.array([0.3, 0.7, 0.2])
M = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.8]])
SAMPLES = [
    (V,), (M,), (V, V), (M, V), (M, M), (V, 2), (M, 2), (M, (3, 3)), (V, V, V), (V > 0.5, V, V), (V, 0, 1), (M, 0, 1), (V, 2, 0),
    ([V, V],), ([M, M],), ((V, V), 0), ("i,i->i", V, V), (V, [True, False, True]), (V, V, V, V), (M, [0, 1], [1, 2]),
    (V, 1, 9.0), (1.0, V), (0, V), (2, V), (V, V, V, V, V),
]  # fmt: skip
MODULES = {"numpy": np, "numpy.linalg": np.linalg, "numpy.fft": np.fft, "scipy.special": scipy.special}
# They print, or write files, or give what is no array, or an array of no values.
SKIPPED = {
    "array2string", "array_repr", "array_str", "empty_like", "result_type", "save", "savetxt", "savez", "savez_compressed",
}  # fmt: skip


def dispatched(module):
    """The names of what a module dispatches: array functions and ufuncs; of aliases, the first."""
    found = {}
    for name, item in sorted(vars(module).items()):
        is_function = isinstance(item, np.ufunc) or hasattr(item, "_implementation")
        if not name.startswith("_") and is_function and name not in SKIPPED:
            found.setdefault(id(item), name)
    return sorted(found.values())


NAMES = [f"{place}.{name}" for place, module in MODULES.items() for name in dispatched(module)]


def find(path):
    place, _, name = path.rpartition(".")
    return name, getattr(MODULES[place], name)


@functools.cache
def samples_of(path):
    """The calls that NumPy answers, with its answers."""
    name, function = find(path)
    found = []
    for sample in SAMPLES:
        is_text = isinstance(sample[0], str) and name not in {"einsum", "einsum_path"}
        if is_text or (isinstance(function, np.ufunc) and len(sample) != function.nin):
            continue
        copies = [item.copy() if isinstance(item, np.ndarray) else item for item in sample]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "floating point number truncated")  # an order that is no integer is no sample
            try:
                answer = function(*copies)
            except Exception:  # noqa: BLE001, S112  # NumPy's own words on a call that it does not take
                continue
        if not any(
            isinstance(item, np.ndarray) and not np.array_equal(item, copy) for item, copy in zip(sample, copies, strict=True)
        ):
            found.append((sample, answer))
    return found


def arrays_of(sample):
    """The places of the float arrays in a sample, and in its first list."""
    flat = [*sample[0], *sample[1:]] if isinstance(sample[0], (list, tuple)) else list(sample)
    return [item for item in flat if isinstance(item, np.ndarray) and item.dtype.kind == "f"]


def put(sample, arrays):
    rest = iter(arrays)

    def replace(item):
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], np.ndarray):
            return type(item)(map(replace, item))
        return next(rest) if isinstance(item, np.ndarray) and item.dtype.kind == "f" else item

    return tuple(map(replace, sample))


def leaves(tree):
    if isinstance(tree, (list, tuple)):
        return list(itertools.chain.from_iterable(map(leaves, tree)))
    return [np.asarray(tree)]


@pytest.mark.parametrize("path", NAMES)
def test_it_computes_numpys_values_or_is_refused_by_name(path):
    name, function = find(path)
    for sample, expected in samples_of(path):
        try:
            found = gw.evaluate(lambda *arrays, sample=sample: function(*put(sample, arrays)))(*arrays_of(sample))
        except (
            gw.UnknownPrimitiveError,
            gw.ArgumentError,
            gw.TracingError,
            gw.ShapeError,
            gw.DtypeError,
            gw.ProgramError,
        ) as error:
            # NumPy does not look for arrays inside of lists, nor, in some functions, behind the first argument.
            is_converted = "conversion" in error.message and not isinstance(sample[0], np.ndarray)
            told = " ".join([error.message, *getattr(error, "__notes__", [])])
            assert is_converted or name in told or function.__name__ in told, told
            continue
        ours, theirs = leaves(found), leaves(expected)
        assert len(ours) == len(theirs), sample
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape, sample
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=str(sample))


def test_an_unknown_function_is_named_with_the_nearest_known_one():
    with pytest.raises(gw.UnknownPrimitiveError, match=r"got elliprc; (the nearest known one is|write it with)"):
        gw.evaluate(scipy.special.elliprc)(1.0, 2.0)
    with pytest.raises(gw.UnknownPrimitiveError, match=r"got nextafter"):
        gw.evaluate(lambda x: np.nextafter(x, 1.0))(1.0)


def test_what_scipy_writes_in_python_is_named_with_what_to_call():
    with pytest.raises(gw.TracingError, match=r"scipy.special.multigammaln converts: call gradwire.special.multigammaln"):
        gw.evaluate(lambda x: scipy.special.multigammaln(x, 2))(3.0)


def test_a_call_that_an_implementation_does_not_take_is_an_argument_error():
    with pytest.raises(gw.ArgumentError, match=r"test_dispatch.py:\d+: needed arguments that clip takes when traced"):
        gw.evaluate(lambda x: np.clip(x, 0, 1, x))(V)


@pytest.mark.parametrize("function", [np.split, np.array_split, np.repeat])
def test_a_traced_number_that_decides_a_shape_is_refused(function):
    with pytest.raises(gw.TracingError, match="needed an index known while tracing"):
        gw.evaluate(lambda x: function(x, x[0]))(V)
