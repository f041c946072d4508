"""Derived programs in a folder: what is found there computes the same, to the bit; what cannot be read is derived anew."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import gradwire as gw
from gradwire_core import derived, engine, plans
from gradwire_core.engine import ExecutableCache, Output, compile
from gradwire_core.kernels.tape import expand
from gradwire_core.ops import PRIMITIVES
from gradwire_core.packing import Packer, Unpacker
from gradwire_core.plans import Plans, open_plans
from gradwire_core.testing import primitive_program
from gradwire_core.transforms import Transform
from tests.core.strategies import examples, programs

GRADIENT = Output((Transform("grad"),))


@pytest.fixture
def everything_is_long(monkeypatch):
    monkeypatch.setattr(engine, "LONG_SECONDS", 0.0)


@pytest.fixture
def kept(tmp_path):
    return Plans(tmp_path / "plans", 2**20)


def packed_again(program):
    packer = Packer()
    unpacker = Unpacker(packer.finish(packer.program(program)))
    return unpacker.program(unpacker.content)


def steps(x):
    for _ in range(60):
        x = np.sin(x) * 0.99 + x[::-1] / 3
    return np.sum(x)


def loop(x):
    return np.sum(gw.fori_loop(0, 5, lambda i, c: np.where(c > 0.1, np.sin(c) * x, c * 2.0), x))


def band(x):
    p = np.pad(x, 1)
    return (3 - 2 * x) * x - p[:-2] - 2 * p[2:]


CASES = [
    (steps, np.linspace(0.1, 1.0, 3), Output()),
    (steps, np.linspace(0.1, 1.0, 3), GRADIENT),
    (steps, np.linspace(0.1, 1.0, 1000), GRADIENT),
    (loop, np.linspace(-1.0, 1.0, 8), GRADIENT),
    (band, np.linspace(0.1, 1.0, 200), Output((Transform("jacobian"),))),
    (band, np.linspace(0.1, 1.0, 200), Output((Transform("jacobian"),), "structured")),
    (band, np.linspace(0.1, 1.0, 200), Output((Transform("jacobian"),), "sparse")),
    (lambda x: x[np.array([2, 0, 2])] ** 2, np.ones(3), Output((Transform("jacobian"),), "structured")),
    (lambda x: x * np.array([1.0, np.inf, -0.0]), np.ones(3), Output((Transform("vjp"),))),
]


# -- packing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_every_primitive_is_packed(name):
    primitive = PRIMITIVES[name]
    for sample in primitive.samples(np.random.default_rng(0)):
        program = primitive_program(primitive, sample)
        assert packed_again(program).digest == program.digest


@examples(40)
@given(case=programs())
def test_a_program_is_packed(case):
    assert packed_again(case.program).digest == case.program.digest


def test_programs_within_programs_and_odd_params_are_packed():
    for function in (loop, lambda x: x.astype(np.float32), lambda x: np.full(3, -0.0) * x * np.nan):
        program = gw.trace(function, np.ones(3))
        assert packed_again(program).digest == program.digest


def test_a_tape_is_packed():
    program = compile(gw.trace(steps, np.ones(3)), [GRADIENT]).program
    tape, packer = expand(program), Packer()
    unpacker = Unpacker(packer.finish(packer.tape(tape)))
    found = unpacker.tape(unpacker.content)
    assert found.rows == tape.rows
    assert found.constants == tape.constants
    assert [item.tolist() for item in (*found.inputs, *found.outputs)] == [item.tolist() for item in (*tape.inputs, *tape.outputs)]


# -- what is found is what was kept --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("everything_is_long")
@pytest.mark.parametrize(("function", "x", "output"), CASES)
def test_what_is_found_computes_the_same(kept, function, x, output, monkeypatch):
    program = gw.trace(function, x)
    inputs = [x, *program.captured]
    first = compile(program, [output], plans=kept)
    seeds = [[np.ones(type.shape) for type in types] for types in first.seed_types]
    monkeypatch.setattr(engine, "_derive_outputs", None)
    second = compile(program, [output], plans=kept)
    for one, other in zip(first.run(inputs, seeds)[0], second.run(inputs, seeds)[0], strict=True):
        if output.layout == "dense":
            assert one.tobytes() == other.tobytes()
        elif output.layout == "sparse":
            assert all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("data", "indices", "indptr"))
        else:
            assert one.patterns == other.patterns
            assert one.todense().tobytes() == other.todense().tobytes()
    assert second.input_types == first.input_types
    assert second.nbytes == first.nbytes
    assert second.plan.choices == first.plan.choices
    assert second.plan.report == first.plan.report
    assert second.program.digest == first.program.digest
    assert (second.by_terms is None) == (first.by_terms is None)


@pytest.mark.usefixtures("everything_is_long")
def test_what_floats_refuse_is_computed_by_numpy_where_a_tape_was_found(kept):
    program = gw.trace(lambda x: np.sum(1.0 / (x * x)), np.ones(3))
    for _ in range(2):
        (gradient,) = compile(program, [GRADIENT], plans=kept).run([np.array([1.0, 0.0, 2.0])])[0]
        np.testing.assert_array_equal(np.isfinite(gradient), [True, False, True])


@pytest.mark.usefixtures("everything_is_long")
def test_a_cache_keeps_and_finds(kept, monkeypatch):
    x = np.ones(3)
    program = gw.trace(steps, x)
    expected = ExecutableCache(plans=kept).get(program, [GRADIENT]).run([x])[0][0]
    monkeypatch.setattr(engine, "_derive_outputs", None)
    assert ExecutableCache(plans=kept).get(program, [GRADIENT]).run([x])[0][0].tobytes() == expected.tobytes()


def test_what_is_derived_at_once_is_not_kept(kept, monkeypatch):
    monkeypatch.setattr(engine, "LONG_SECONDS", 1e9)
    compile(gw.trace(steps, np.ones(3)), [GRADIENT], plans=kept)
    assert not files(kept)


@pytest.mark.usefixtures("everything_is_long")
def test_other_outputs_and_other_versions_are_other_plans(kept, monkeypatch):
    program = gw.trace(steps, np.ones(3))
    compile(program, [Output()], plans=kept)
    compile(program, [GRADIENT], plans=kept)
    assert len(files(kept)) == 2
    monkeypatch.setattr(plans, "_versions", lambda: b"another")
    compile(program, [GRADIENT], plans=kept)
    assert len(files(kept)) == 3


@pytest.mark.usefixtures("everything_is_long")
def test_what_is_derived_within_a_function_is_kept_too(kept, monkeypatch):
    program = gw.trace(steps, np.ones(3))
    expected = engine.derive(program, GRADIENT.transforms, kept)
    assert len(files(kept)) == 1
    monkeypatch.setattr(engine, "apply", None)
    assert engine.derive(program, GRADIENT.transforms, kept).digest == expected.digest
    monkeypatch.undo()
    engine.derive(gw.trace(np.sin, np.ones(3)), (Transform("jvp"),), kept)  # so short that it is not looked for
    assert len(files(kept)) == 1


# -- files ---------------------------------------------------------------------------------------------------------------------


def files(kept: Plans) -> list[Path]:
    return sorted(kept._folder.iterdir())


@pytest.mark.usefixtures("everything_is_long")
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-5], lambda raw: b"x" + raw[1:], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda _: b""]
)
def test_a_damaged_file_counts_as_absent(kept, damage, caplog):
    x = np.ones(5)
    program = gw.trace(steps, x)
    expected = compile(program, [GRADIENT], plans=kept).run([x])[0][0]
    (path,) = files(kept)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert compile(program, [GRADIENT], plans=kept).run([x])[0][0].tobytes() == expected.tobytes()
    assert "damaged" in caplog.text
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("everything_is_long")
@pytest.mark.parametrize("content", [b"", b"nothing", Packer().finish({"inputs": 3}), Packer().finish(None)])
def test_a_file_that_holds_something_else_counts_as_absent(kept, content):
    kept.write(["key"], content)
    assert derived.find(kept, ["key"]) is None
    assert not files(kept)


def test_what_was_used_longest_ago_leaves(tmp_path, monkeypatch):
    kept = Plans(tmp_path, 10_000)
    clock = iter(range(1, 1000))
    monkeypatch.setattr(plans.os, "utime", lambda path: set_time(path, next(clock)))
    for name in "abc":
        kept.write([name], bytes(2000))
        kept.read([name])
    assert kept.read(["a"]) is not None
    (tmp_path / "left-behind.123-456").write_bytes(bytes(3000))
    set_time(tmp_path / "left-behind.123-456", 0)
    kept.write(["d"], bytes(2000))
    assert sorted(name for name in "abcd" if kept.read([name])) == ["a", "c", "d"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    kept.write(["e"], bytes(9000))
    assert kept.read(["e"]) is None


UTIME = plans.os.utime


def set_time(path: Path, seconds: int) -> None:
    UTIME(path, (seconds, seconds))


def test_a_folder_that_cannot_be_used_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    (tmp_path / "shared" / "plans").mkdir(parents=True)
    (tmp_path / "shared" / "plans").chmod(0o777)
    with caplog.at_level(logging.WARNING):
        for name in ("file", "shared"):
            assert open_plans(str(tmp_path / name), 1000) is None
            assert open_plans(str(tmp_path / name), 1000) is None
    assert len(caplog.records) == 2
    assert open_plans("", 1000) is None
    assert open_plans(str(tmp_path), 0) is None
    assert not (tmp_path / "plans").exists()


def test_a_full_disk_is_told_once(kept, caplog, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            kept.write([name], b"content")
    assert len(caplog.records) == 1
    assert not files(kept)
