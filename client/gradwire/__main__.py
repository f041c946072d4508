"""The command `gradwire`: it finds its subcommands among the installed packages, by the entry points `gradwire.commands`.

A subcommand is a function of its arguments (a list of text) that returns the exit code, or None for 0. The first line of its
docstring, up to a semicolon, is what `gradwire --help` says of it.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

GROUP = "gradwire.commands"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in {"-h", "--help"}:
        print(help_text())
        return 0
    if name in {"-V", "--version"}:
        print(f"gradwire {installed_version()}")
        return 0
    found = {item.name: item for item in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none installed"
        near = difflib.get_close_matches(name, found, n=1)
        advice = f"the nearest is {near[0]}" if near else "see gradwire --help"
        print(f"gradwire: needed a command among {known}, got {name!r}; {advice}", file=sys.stderr)
        return 2
    try:
        command: Callable[[list[str]], int | None] = found[name].load()
    except ModuleNotFoundError as error:
        print(
            f"gradwire {name}: needed the module {error.name}, which is not installed; pip install 'gradwire[server]'",
            file=sys.stderr,
        )
        return 1
    return command(given[1:]) or 0


def help_text() -> str:
    """Return what `gradwire --help` prints."""
    commands = sorted(entry_points(group=GROUP), key=lambda item: item.name)
    lines = [
        "usage: gradwire COMMAND [arguments]",
        "",
        "Exact derivatives of NumPy functions: in process, or over gRPC.",
        "",
        "commands:",
    ]
    lines += [f"  {item.name:<12}{_summary(item)}" for item in commands] or ["  none installed"]
    lines += ["", "gradwire COMMAND --help tells more of each."]
    return "\n".join([*lines, "", "options:", "  --help      show this text", "  --version   show the version"])


def _summary(item: EntryPoint) -> str:
    """Return one line on a subcommand."""
    try:
        doc = inspect.getdoc(item.load()) or ""
    except ModuleNotFoundError as error:
        return f"(needs {error.name}, which is not installed)"
    return doc.partition("\n")[0].partition(";")[0].rstrip(".")


def installed_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("gradwire")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
