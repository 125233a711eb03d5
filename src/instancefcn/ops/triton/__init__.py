"""The operators, suppression and mask voting as Triton kernels, for a GPU."""
