"""The command `gradwire` finds its subcommands, and says what it needs."""

from importlib.metadata import EntryPoint

import pytest

from gradwire import __main__ as command

CALLS = []


def serve(arguments):
    CALLS.append(arguments)
    return 3


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    points = [
        EntryPoint("serve", f"{__name__}:serve", command.GROUP),
        EntryPoint("load", "no_such_package.main:main", command.GROUP),
    ]
    monkeypatch.setattr(EntryPoint, "load", lambda self: serve if self.name == "serve" else _missing())
    monkeypatch.setattr(command, "entry_points", lambda group: points)


def _missing():
    raise ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")


def test_a_subcommand_gets_its_arguments_and_gives_the_exit_code():
    assert command.main(["serve", "--listen", "127.0.0.1:0"]) == 3
    assert CALLS.pop() == ["--listen", "127.0.0.1:0"]


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(given, capsys):
    assert command.main(given) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: gradwire COMMAND")
    assert printed.index("  load ") < printed.index("  serve ")


def test_version_is_that_of_the_distribution(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gradwire ")


def test_an_unknown_command_is_refused(capsys):
    assert command.main(["sevre"]) == 2
    assert "needed a command among load, serve, got 'sevre'" in capsys.readouterr().err


def test_a_command_whose_package_is_missing_says_so(capsys):
    assert command.main(["load"]) == 1
    assert "needed the module no_such_package, which is not installed" in capsys.readouterr().err
