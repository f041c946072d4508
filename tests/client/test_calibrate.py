"""`gradwire calibrate`: the table of this machine, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from gradwire import _calibrate
from gradwire._config import KERNELS, EngineConfig
from gradwire_core.kernels import choice
from gradwire_core.kernels.calibration import Calibration, Table, find, keep
from gradwire_server import config
from tests.core.tables import table_of


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """What was measured, by nothing that takes long."""
    found = []

    class Known(Calibration):
        def __init__(self, threads, folder):
            super().__init__(threads, folder, lambda count: found.append(count) or table_of(is_disturbed=len(found) > 1))

    monkeypatch.setattr(_calibrate, "Calibration", Known)
    return found


def test_the_table_is_measured_once_and_shown(tmp_path, capsys, measured):
    given = ["--folder", str(tmp_path / "new"), "--threads", "2"]
    for _ in range(2):
        assert _calibrate.main(given) == 0
        lines = capsys.readouterr().out.splitlines()
        assert str(tmp_path) in lines[1]
        rows = {line.split()[0]: line.split()[1:] for line in lines if line}
        assert rows["exp"] == ["5", "6", "5", "6"]
        assert rows["add"] == ["0.5", "1", "0.5", "1"]
    assert measured == [2]
    assert _calibrate.main([*given, "--force"]) == 0
    assert "other processes were at work" in capsys.readouterr().out
    assert measured == [2, 2]


def test_json_is_the_table(tmp_path, capsys):
    keep(tmp_path, 2, table_of(shares=(1.0, 0.75)))
    assert _calibrate.main(["--folder", str(tmp_path), "--threads", "2", "--json"]) == 0
    printed = capsys.readouterr().out
    assert Table.from_json(printed) == table_of(shares=(1.0, 0.75))
    assert json.loads(printed)["threads"] == [1, 2]


def test_it_is_kept_where_the_engine_looks(tmp_path, monkeypatch, measured):
    monkeypatch.setenv("GRADWIRE_CACHE_FOLDER", str(tmp_path))
    monkeypatch.setenv("GRADWIRE_THREADS", "2")
    assert _calibrate.main([]) == 0
    assert find(tmp_path, 2) == table_of()
    assert measured == [2]


@pytest.mark.parametrize("given", [["--threads", "0"], ["--threads", "many"], ["--nothing"]])
def test_what_cannot_be_is_refused(given, capsys):
    assert _calibrate.main(given) == 2
    assert "usage: gradwire calibrate" in capsys.readouterr().err


def test_a_folder_that_cannot_be_used_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert _calibrate.main(["--folder", str(tmp_path / "file" / "folder")]) == 1
    assert "try another --folder" in capsys.readouterr().err


def test_a_malformed_variable_is_told(monkeypatch, capsys):
    monkeypatch.setenv("GRADWIRE_KERNELS", "fast")
    assert _calibrate.main([]) == 2
    assert "needed one of auto, blocks, numexpr, got 'fast'" in capsys.readouterr().err


def test_help_says_what_it_is(capsys):
    assert _calibrate.main(["--help"]) == 0
    assert "measured" in capsys.readouterr().out


def test_settings_name_the_same_kernels():
    assert KERNELS == choice.KERNELS == config.KERNELS
    assert EngineConfig().kernels == config.ServerConfig().kernels == "auto"
