"""A server whose workers compile what runs long: the answers stay, and the code is found in its folder."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.native import compiler, images, machine, pages
from gradwire_server.config import ServerConfig
from gradwire_server.inline import Inline
from tests.server.processes import serving

PATIENCE_S = 120.0


def wave(x):
    return (x * x + 3.0 * x) / (2.0 + x * x)


def orbit(x):
    for _ in range(400):
        x = x + 0.01 * np.sin(x)
    return x


def short_orbit(x):
    for _ in range(40):
        x = x + 0.01 * np.sin(x)
    return x


def mapped(pids):
    """Return the files that processes map, as text."""
    return "".join([Path(f"/proc/{pid}/maps").read_text() for pid in pids])


@pytest.mark.parametrize(("function", "count", "files"), [(wave, 8000, compiler.FILES), (short_orbit, 3, machine.FILES)])
def test_what_the_front_end_answers_itself_is_compiled_too_and_by_another_process(function, count, files):
    x = np.linspace(-1.0, 1.0, count)
    needed = gw.evaluate(function)(x)
    with (
        serving("--workers", "1", "--spare-workers", "0", "--inline-budget-s", "1") as server,
        gw.connect(server.address) as client,
    ):
        found = lambda: mapped(server.front_pids or {server.popen.pid})
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not (files in found() or not images.CAN_MAP):
            np.testing.assert_allclose(client.evaluate(function)(x), needed, rtol=1e-13, atol=1e-13)
        for _ in range(20):
            np.testing.assert_allclose(client.evaluate(function)(x), needed, rtol=1e-13, atol=1e-13)
        if images.CAN_MAP:
            assert files in found()
            assert pages.LIBRARY not in found(), "the compiler is in the front end"


@pytest.mark.parametrize(
    ("function", "count", "files", "is_native"),
    [(wave, 2**19, compiler.FILES, True), (wave, 2**19, compiler.FILES, False), (orbit, 3, machine.FILES, True)],
)
def test_workers_keep_compiled_code_in_a_folder_and_map_it_alone(tmp_path, function, count, files, is_native):
    folder = tmp_path / "code"
    options = ("--workers", "1", "--spare-workers", "0", "--cache-folder", str(folder), "--native" if is_native else "--no-native")
    x = np.linspace(-1.0, 1.0, count)
    needed = gw.evaluate(function)(x)
    with serving(*options) as server, gw.connect(server.address) as client:
        is_run = lambda: files in mapped(server.worker_pids) if images.CAN_MAP else bool(list(folder.rglob("*.o")))
        deadline = time.monotonic() + (PATIENCE_S if is_native else 2.0)
        while time.monotonic() < deadline and not is_run():
            np.testing.assert_allclose(client.evaluate(function)(x), needed, rtol=1e-13, atol=1e-13)
        assert is_run() == is_native
        for _ in range(5):
            np.testing.assert_allclose(client.evaluate(function)(x), needed, rtol=1e-13, atol=1e-13)
        if images.CAN_MAP:
            assert pages.LIBRARY not in mapped(server.worker_pids), "the compiler is in a worker"


@pytest.mark.parametrize(("folder", "most_bytes"), [("code", 0), ("file", 2**20)])
def test_a_front_end_that_cannot_keep_code_compiles_none(folder, most_bytes, tmp_path):
    (tmp_path / "file").touch()
    given = ServerConfig(cache_folder=str(tmp_path / folder), code_folder_bytes=most_bytes)
    assert Inline(given)._executables._tier is None
    assert Inline(ServerConfig(cache_folder=str(tmp_path / "other")))._executables._tier is not None
