"""The GPU form of the operators, suppression and mask voting: Triton kernels."""
