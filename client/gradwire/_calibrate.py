"""`gradwire calibrate`: what large elementwise work takes on this machine, by which the engine chooses its kernels and threads."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradwire._config import EngineConfig
from gradwire_core.errors import ArgumentError
from gradwire_core.kernels.calibration import CLASSES, DTYPES, KERNELS, OPERATIONS, Calibration, Table, path_in

FAILED, BAD_USE = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Show what large elementwise work takes on this machine; it is measured unless that was done before.

    The engine measures by itself, in the background, when it first has such work.
    """
    try:
        config = EngineConfig.from_environ()
    except ArgumentError as error:
        print(f"gradwire calibrate: {error.message}", file=sys.stderr)
        return BAD_USE
    parser = _parser(config)
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # after --help or a wrong option
        return int(stop.code or 0)
    folder = Path(options.folder).expanduser() if options.folder else None
    try:
        table = Calibration(options.threads, folder).refresh(is_forced=options.force)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"gradwire calibrate: needed to measure and keep a table, got {error}; try another --folder", file=sys.stderr)
        return FAILED
    print(table.to_json() if options.json else "\n".join(_lines(table, folder, options.threads)))
    return 0


def _parser(config: EngineConfig) -> argparse.ArgumentParser:
    doc = (main.__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="gradwire calibrate", description=doc[0].strip(), epilog=" ".join(doc[2].split()), allow_abbrev=False
    )
    parser.add_argument("--threads", type=_positive, default=config.threads, help="the most threads (here %(default)s)")
    parser.add_argument("--folder", default=config.cache_folder, help="where the table is kept (here %(default)s)")
    parser.add_argument("--force", action="store_true", help="measure again")
    parser.add_argument("--json", action="store_true", help="print JSON, times in seconds")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"needed a positive integer, got {text!r}")
    return int(text)


def _lines(table: Table, folder: Path | None, threads: int) -> Iterator[str]:
    """Yield the table as text."""
    yield ", ".join(f"{name} {value}" for name, value in table.key.items())
    if folder is not None:
        yield f"kept in {path_in(folder, threads)}"
    if table.is_disturbed:
        yield "other processes were at work meanwhile: it will be measured again"
    columns = [(kernel, dtype.value) for dtype in DTYPES for kernel in KERNELS]
    heads = [f"{kernel} {dtype}" for kernel, dtype in columns]
    yield ""
    yield f"{'ns an element':<30}" + "".join(f"{head:>18}" for head in heads)
    for name in OPERATIONS:
        yield f"{name:<30}" + "".join(f"{1e9 * table.element_s[kernel][dtype][name]:>18.3g}" for kernel, dtype in columns)
    yield ""
    yield f"{'time, by that on one thread':<30}" + "".join(f"{head:>18}" for head in heads)
    for name in CLASSES:
        for place, count in enumerate(table.threads):
            shares = [table.shares[kernel][dtype][name][place] for kernel, dtype in columns]
            yield f"{f'{name}, {_count(count)}':<30}" + "".join(f"{share:>18.3g}" for share in shares)
    yield ""
    for count, seconds in zip(table.threads, table.call_s, strict=True):
        yield f"{f'a call on {_count(count)}, us':<30}{1e6 * seconds:>18.3g}"


def _count(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"
