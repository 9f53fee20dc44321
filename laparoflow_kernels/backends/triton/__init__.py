"""Triton backend: statistics, gradients and weighted sums as tiled kernels for NVIDIA GPUs from sm_80 on.

Importing this package needs torch alone; triton and the kernels are imported at the first call. Under
``TRITON_INTERPRET=1`` (set before the first call) the same kernels run on CPU tensors, slowly.

    pairs.py                   mathematics of one tile: distances, weights, loads
    weight_operands_kernel.py  exponents of weights as a product of tensor cores
    statistics_kernels.py      forward: row and column sums
    finish_kernel.py           forward: the statistics that those sums make
    coefficients_kernel.py     backward: what dS needs of a row
    gradient_kernels.py        backward: dq, dk, dtemperature
    weighted_sum_kernel.py     sum_j w_ij v_j
    launch.py                  host code of each operator
    tiles.py                   tile sizes
    availability.py            where this backend can run
"""
