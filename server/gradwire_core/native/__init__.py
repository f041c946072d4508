"""The native tier: loops that Numba compiles, and single numbers that LLVM does, where the extra `jit` is installed.

`functions` and `compiler` alone import Numba, `machine` alone llvmlite.
"""
