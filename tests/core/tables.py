"""Calibrations that no machine needs to have: every operation takes what is told, and threads share it as told."""

from __future__ import annotations

from gradwire_core.kernels.calibration import CLASSES, DTYPES, KERNELS, OPERATIONS, Table, class_of, key_of

NANO = 1e-9


def table_of(
    threads: tuple[int, ...] = (1, 2),
    *,
    numpy: tuple[float, float] = (0.5, 5.0),
    numexpr: tuple[float, float] = (1.0, 6.0),
    shares: tuple[float, ...] = (1.0, 0.5),
    call_s: float = 1e-6,
    is_disturbed: bool = False,
) -> Table:
    """A table: nanoseconds an element of arithmetic and of other functions, by kernel, and the shares of each number of threads."""
    given = dict(zip(KERNELS, (numpy, numexpr), strict=True))
    return Table(
        key_of(threads[-1]),
        threads,
        {
            kernel: {
                dtype.value: {name: NANO * given[kernel][CLASSES.index(class_of(name))] for name in OPERATIONS} for dtype in DTYPES
            }
            for kernel in KERNELS
        },
        {kernel: {dtype.value: dict.fromkeys(CLASSES, shares) for dtype in DTYPES} for kernel in KERNELS},
        (call_s,) * len(threads),
        is_disturbed,
    )
