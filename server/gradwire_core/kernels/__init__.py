"""Kernels: what runs many equations at once. Each module has one way; `executor` chooses."""
