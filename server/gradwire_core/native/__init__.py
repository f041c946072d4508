"""The native tier: loops that Numba compiles, and single numbers that LLVM does, where the extra `jit` is installed.

`functions` and `objects` alone import Numba, and with `codes` and `machine` llvmlite: to compile, and to load object files.
"""
