"""The native tier: kernels that Numba compiles, where the extra `jit` is installed. Only `functions` imports Numba."""
