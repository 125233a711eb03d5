"""The operators and mask voting as Numba kernels, for a CPU."""
