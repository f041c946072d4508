"""Evaluates a derivation from its data alone, as a reader of the JSON would: index notation on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire_core.ops import PRIMITIVES
from gradwire_core.types import Dtype

KINDS = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}


class Evaluation:
    """Evaluates formulas; each index is an axis of its own.

    Args:
        arrays: the named arrays.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays

    def derivative(self, formula: dict[str, Any]) -> np.ndarray:
        """The array of a derivative: the axes of the value, then those of what it is differentiated by."""
        left = formula["left"]
        return self._fill([*left["of"]["at"], *left["by"]["at"]], formula)

    def assign(self, formula: dict[str, Any], shape: list[int]) -> None:
        """Compute a value, or a part of it; the rest is zero."""
        name = formula["left"]["element"]
        found = self._fill(formula["left"]["at"], formula)
        array = self.arrays.setdefault(name, np.zeros(shape, np.result_type(found)))
        lengths, names = self._free(formula["left"]["at"], formula)
        env = self._grid(names, lengths)
        if shape:
            array[tuple(self._index(index, env) for index in formula["left"]["at"])] = found.reshape(lengths)
        else:
            self.arrays[name] = found.reshape(())

    def _free(self, at: list[Any], formula: dict[str, Any]) -> tuple[list[int], list[str]]:
        names = list(dict.fromkeys(part for index in at for _, part in index["parts"]))
        return [formula["indices"][name] for name in names], names

    def _grid(self, names: list[str], lengths: list[int]) -> dict[str, Any]:
        grids = np.meshgrid(*[np.arange(length) for length in lengths], indexing="ij") if names else []
        return dict(zip(names, grids, strict=True))

    def _fill(self, at: list[Any], formula: dict[str, Any]) -> np.ndarray:
        lengths, names = self._free(at, formula)
        env = self._grid(names, lengths)
        value = np.broadcast_to(self.evaluate(formula["right"], env), lengths)
        shape = [formula["indices"][index["parts"][0][1]] if len(index["parts"]) == 1 else 1 for index in at]
        return value.reshape(shape) if np.prod(shape) == value.size else value

    def _index(self, index: dict[str, Any], env: dict[str, Any]) -> Any:
        total: Any = index["offset"]
        for stride, part in index["parts"]:
            total = total + stride * (env[part] if isinstance(part, str) else self.evaluate(part, env))
        return np.asarray(total)

    def evaluate(self, node: dict[str, Any], env: dict[str, Any]) -> Any:
        """The value of a node; indices that are summed over are the last axes."""
        (kind,) = [key for key in node if key in KIND_NAMES]
        return getattr(self, f"_{kind}")(node, env)

    def _all(self, nodes: list[Any], env: dict[str, Any]) -> list[Any]:
        return [self.evaluate(node, env) for node in nodes]

    def _number(self, node: Any, env: Any) -> Any:
        value = node["number"]
        return float(value) if isinstance(value, str) else value

    def _element(self, node: Any, env: Any) -> Any:
        array = self.arrays[node["element"]]
        if node["at"] is None or not node["at"]:
            return array
        return array[tuple(self._index(index, env) for index in node["at"])]

    def _call(self, node: Any, env: Any) -> Any:
        primitive = PRIMITIVES[node["call"]]
        given = list(np.broadcast_arrays(*self._all(node["of"], env)))
        if node["call"].startswith("logical") or node["call"] == "where":
            given[0] = given[0].astype(bool)
        elif any(array.dtype.kind == "f" for array in given):
            given = [array.astype(float) for array in given]
        return primitive.kernel(*given)

    def _apply(self, node: Any, env: Any) -> Any:
        params = {key: self._param(value) for key, value in node["params"].items()}
        found = PRIMITIVES[node["apply"]].kernel(*self._all(node["of"], env), **params)
        array = found[node["result"]] if node["result"] >= 0 else found
        if not node["at"]:
            return array
        return np.asarray(array)[tuple(self._index(index, env) for index in node["at"])]

    def _param(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(self._param, value))
        return Dtype(value) if isinstance(value, str) and value in {item.value for item in Dtype} else value

    def _sum(self, node: Any, env: Any) -> Any:
        return sum(self._all(node["sum"], env))

    def _product(self, node: Any, env: Any) -> Any:
        total: Any = 1
        for item in self._all(node["product"], env):
            total = total * item
        return total

    def _quotient(self, node: Any, env: Any) -> Any:
        above, below = self._all(node["quotient"], env)
        return np.true_divide(above, below)

    def _power(self, node: Any, env: Any) -> Any:
        base, exponent = self._all(node["power"], env)
        return np.asarray(base) ** exponent

    def _delta(self, node: Any, env: Any) -> Any:
        first, second = (self._index(index, env) for index in node["delta"])
        return np.equal(first, second) * 1

    def _at_most(self, node: Any, env: Any) -> Any:
        first, second = (self._index(index, env) for index in node["at_most"])
        return np.less_equal(first, second) * 1

    def _over(self, node: Any, env: Any) -> Any:
        count = len(node["ranges"])
        axes = max((np.ndim(grid) for grid in env.values()), default=0)
        inner = {name: np.reshape(grid, (*np.shape(grid), *(1,) * count)) for name, grid in env.items()}
        for place, (name, length) in enumerate(node["ranges"].items()):
            inner[name] = np.arange(length).reshape((1,) * axes + tuple(length if n == place else 1 for n in range(count)))
        shape = (*np.broadcast_shapes(*[np.shape(grid) for grid in env.values()]), *node["ranges"].values())
        value = np.broadcast_to(self.evaluate(node["of"], inner), shape)
        return KINDS[node["over"]](value, axis=tuple(range(len(shape) - count, len(shape))))


KIND_NAMES = frozenset({"number", "element", "call", "apply", "sum", "product", "quotient", "power", "delta", "at_most", "over"})


def evaluate(derivation: dict[str, Any], inputs: list[np.ndarray]) -> Evaluation:
    """Compute every value of a derivation, from its equations in index notation."""
    arrays = {item["name"]: array for item, array in zip(derivation["inputs"], inputs, strict=True)}
    arrays |= {item["name"]: np.array(item["values"], item["dtype"]).reshape(item["shape"]) for item in derivation["constants"]}
    evaluation = Evaluation(arrays)
    for step in derivation["steps"]:
        shapes = {result["name"]: result["shape"] for result in step["results"]}
        for formula in step["formulas"]:
            evaluation.assign(formula, shapes[formula["left"]["element"]])
    return evaluation
