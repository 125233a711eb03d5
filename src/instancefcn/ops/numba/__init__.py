"""The CPU form of the operators and mask voting: Numba kernels."""
