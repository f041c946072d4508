"""The native tier: loops that Numba compiles, and single numbers that LLVM does, where the extra `jit` is installed.

`functions` and `objects` alone import Numba, and with `machine` llvmlite: only to compile, and to load programs of numbers.
"""
