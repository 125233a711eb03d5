"""Compiles every Triton kernel for an H100 (to machine code; no GPU is needed). `test_kernels.py` runs it in
a process of its own, outside the interpreter.

Triton compiles an integer argument that is 1 as a constant, which the interpreter does not: one window, one
image, one row of cells are programs of their own.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from instancefcn.ops.triton import geometry as triton_geometry
from instancefcn.ops.triton import kernels as triton_kernels
from instancefcn.ops.triton import suppression as suppression_cuda
from instancefcn.ops.triton import voting as voting_cuda

HOPPER = GPUTarget("cuda", 90, 32)
MAPS, FLOATS, DOUBLES, INTS, LONGS = "*bf16", "*fp32", "*fp64", "*i32", "*i64"
BLOCKS = {"BLOCK_X": 32, "BLOCK_C": 128}
POINTERS = {
    "maps": MAPS, "grad": MAPS, "out": MAPS, "windows": DOUBLES, "positions": INTS, "shares": FLOATS,
    "counts": INTS, "labels": LONGS, "starts": LONGS, "lists": INTS, "order": LONGS, "boxes": FLOATS,
    "masks": FLOATS, "index": LONGS, "weights": FLOATS, "rects": LONGS, "crops": LONGS,
    "first_tiles": LONGS, "offsets": LONGS, "pixels": "*u8", "words": LONGS, "limits": FLOATS,
    "rows": LONGS, "threshold": "fp32", "binarize": "fp32",
}  # fmt: skip
KERNELS: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = [
    (
        triton_kernels.average, {"out": FLOATS},
        {"K": 7, "PAIRED": True, "SPLIT": 8, "BLOCK_X": 16, "BLOCK_C": 128}, {},
    ),
    (
        triton_kernels.average_backward, {},
        {"K": 7, "PAIRED": True, "BLOCK_R": 16, **BLOCKS}, {"num_warps": 8},
    ),
    (triton_kernels.mask_logits, {}, {"K": 7, "BLOCK": 512}, {}),
    (triton_kernels.mask_logits_backward, {}, {"K": 7, "POINTS": 3, **BLOCKS}, {"num_warps": 8}),
    (triton_geometry.slots, {}, {"K": 7, "BLOCK": 128}, {}),
    (triton_geometry.covering, {}, {"K": 7, "POINTS": True, "BLOCK": 128}, {}),
    (
        voting_cuda._vote, {"out": "*u8"},
        {"CUT": True, "BINARY": False, "BLOCK_Y": 16, "BLOCK_X": 32}, {},
    ),
    (voting_cuda._extents, {"out": LONGS}, {"BLOCK": 2048}, {"num_warps": 8}),
    (suppression_cuda._compare, {}, {}, {"enable_fp_fusion": False}),
    (suppression_cuda._compare, {"boxes": DOUBLES, "limits": DOUBLES}, {}, {"enable_fp_fusion": False}),
    (suppression_cuda._choose, {}, {"WORDS": 128}, {"num_warps": 8}),
]  # fmt: skip


def compile_for_hopper(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any], ones: bool
) -> None:
    """Fails where Triton does. `ones`: every integer argument is 1."""
    names = kernel.arg_names
    signature = {name: (POINTERS | types).get(name, "i32") for name in names}
    fixed = dict(constants)
    if ones:
        fixed |= {name: 1 for name in names if signature[name] == "i32" and name not in constants}
    signature |= dict.fromkeys(fixed, "constexpr")
    fixed_arguments = {(names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed_arguments)
    assert triton.compile(source, target=HOPPER, options=options).asm["cubin"]


if __name__ == "__main__":
    for ones in (True, False):
        for arguments in KERNELS:
            compile_for_hopper(*arguments, ones=ones)
    print("compiled")
