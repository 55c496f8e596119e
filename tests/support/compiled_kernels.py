"""The kernels through Triton's compiler and ptxas for capability 9.0; needs no GPU. Prints what came out as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from cogvideox import gpu_kernels as kernels

HALF, FLOAT, INT = "*bf16", "*fp32", "i32"


def compiled(kernel: Callable, types: Sequence[str], warps: int = 4, **constants: Any) -> dict[str, int]:
    """Facts of the machine code; pointers and whole numbers count as multiples of 16, as at real sizes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    jitted = kernels._jitted()[kernel]
    names = jitted.arg_names
    assert len(names) == len(types) + len(constants)
    signature = dict(zip(names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind[0] == "*" or kind == INT
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=jitted, signature=signature, constexprs=values, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    ptx = made.asm["ptx"]
    return {"cubin": len(made.asm["cubin"]), "spilled": ptx.count("ld.local"), "wide": ptx.count(".v4")}


def main() -> None:
    rows = [HALF] * 8 + [INT] * 6 + ["fp32"]
    found = {
        "norm_rotate": compiled(
            *(kernels._norm_rotate_kernel, [HALF] * 3 + [FLOAT] + [INT] * 3 + ["fp32"]),
            **{"E": 64, "ROWS": 64, "AFFINE": True, "ROTATE": True},
        ),
        "scale_shift_silu": compiled(
            kernels._scale_shift_silu_kernel, [HALF, FLOAT, FLOAT, HALF] + [INT] * 18, BLOCK=1024
        ),
    }
    for name, flags in {
        "add_norm_modulate": (True, True),
        "norm_modulate": (False, True),
        "add_gated": (True, False),
    }.items():
        add, norm = flags
        found[name] = compiled(
            *(kernels._add_norm_modulate_kernel, rows, 8),
            **{"WIDTH": 3072, "BLOCK": 4096, "ADD": add, "NORM": norm, "AFFINE": norm},
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
