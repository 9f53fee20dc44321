"""Exponentials of the pairs, base 2 throughout, shared between the special function unit and the FMA units.

A pair has two exponentials, that of its logit and that of its weight. One of them takes the special function unit, 16 per
clock and multiprocessor; of the other, 1, 2 or 4 of every four elements do (``tiles.Tile.special``), the rest a polynomial
on the FMA units, 128 per clock but seven instructions each. ``exp2_shared`` shares out the weight's or, where the
weight's exponent comes from a product (``weight_of``), that of the bounded logit.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
SMALLEST_EXPONENT = tl.constexpr(-126.0)

# 2^f on [-1/2, 1/2] as 1 + f (c1 + f (c2 + ...)): relative error 9e-8 (1.7e-7 evaluated in float32), exact at 0.
EXP2_COEFFICIENTS = (0.6931469776, 0.2402224208, 0.0555073374, 0.0096715127, 0.0013264727)


def _hexadecimal(value: float) -> str:
    import struct

    return "0f{:08X}".format(struct.unpack("<I", struct.pack("<f", value))[0])


def _polynomial_assembly(index: int, result: int, base: int, factor: int, bounded: bool) -> str:
    """2^(x c) on the FMA units: round to an integer n by a magic constant, polynomial of the rest, times 2^n.

    The magic constant is 1.5 * 2^23 + 127, so the low bits of the rounded sum are the biased exponent n + 127 and
    one shift makes the float 2^n (which is 0 for n = -127); the last product flushes what is under 2^-126. Where neither
    end of the range is near (``bounded``), n is added to the exponent of the polynomial: one instruction less.
    """
    magic = _hexadecimal(1.5 * 2**23 + (0 if bounded else 127))
    t, n, f, p, s = (f"{name}{index}" for name in "tnfps")
    lines = [
        f".reg .f32 {t}, {n}, {f}, {p}, {s};",
        f"fma.rn.f32 {t}, ${base}, ${factor}, {magic};",
        f"sub.rn.f32 {n}, {magic}, {t};",
        f"fma.rn.f32 {f}, ${base}, ${factor}, {n};",
        f"mov.f32 {p}, {_hexadecimal(EXP2_COEFFICIENTS[-1])};",
    ]
    lines += [f"fma.rn.f32 {p}, {p}, {f}, {_hexadecimal(c)};" for c in EXP2_COEFFICIENTS[-2::-1]]
    lines += [
        f"fma.rn.f32 {p}, {p}, {f}, {_hexadecimal(1.0)};",
        f".reg .b32 b{index};",
        f"mov.b32 b{index}, {t};",
        f"shl.b32 b{index}, b{index}, 23;",
    ]
    if bounded:
        lines += [
            f".reg .b32 r{index};",
            f"mov.b32 r{index}, {p};",
            f"add.s32 r{index}, r{index}, b{index};",
            f"mov.b32 ${result}, r{index};",
        ]
    else:
        lines += [f"mov.b32 {s}, b{index};", f"mul.ftz.f32 ${result}, {p}, {s};"]
    return "\n".join(lines)


def exp2_assembly(pack: int, on_special_unit: int, bounded: bool = False) -> str:
    """PTX for ``pack`` elements of 2^(x c): the first ``on_special_unit`` by ex2, the others by the polynomial.

    Operands: results $0..pack-1, x $pack..2 pack-1, c $2 pack..3 pack-1. ``bounded``: x c lies within +-100.
    """
    blocks = []
    for index in range(pack):
        result, base, factor = index, pack + index, 2 * pack + index
        if index < on_special_unit:
            blocks.append(
                f".reg .f32 e{index};\nmul.rn.f32 e{index}, ${base}, ${factor};\n"
                f"ex2.approx.ftz.f32 ${result}, e{index};"
            )
        else:
            blocks.append(_polynomial_assembly(index, result, base, factor, bounded))
    return "{\n" + "\n".join(blocks) + "\n}"


def exp2_constraints(pack: int) -> str:
    """Register constraints of ``exp2_assembly``."""
    return ",".join(["=&f"] * pack + ["f"] * (2 * pack))


EXP2_PACK = tl.constexpr(4)
EXP2_QUARTER = tl.constexpr(exp2_assembly(4, 1))
EXP2_HALF = tl.constexpr(exp2_assembly(4, 2))
EXP2_ALL = tl.constexpr(exp2_assembly(4, 4))
BOUNDED_QUARTER = tl.constexpr(exp2_assembly(4, 1, bounded=True))
BOUNDED_HALF = tl.constexpr(exp2_assembly(4, 2, bounded=True))
EXP2_CONSTRAINTS = tl.constexpr(exp2_constraints(4))


@triton.jit
def exp2_shared(x, factor, SPECIAL: tl.constexpr, BOUNDED: tl.constexpr):
    """2^(x factor), SPECIAL of every four elements on the special function unit (1, 2 or 4).

    BOUNDED: of an exponent within +-100. Otherwise of one in [-127, 0]: results below 2^-126 are exactly 0.
    """
    if INTERPRETED or x.dtype == tl.float64:
        result = tl.exp2(x * factor)
        if not BOUNDED:
            result = tl.where(x * factor >= SMALLEST_EXPONENT, result, 0.0)
    else:
        half: tl.constexpr = BOUNDED_HALF if BOUNDED else EXP2_HALF
        quarter: tl.constexpr = BOUNDED_QUARTER if BOUNDED else EXP2_QUARTER
        assembly: tl.constexpr = EXP2_ALL if SPECIAL == 4 else half if SPECIAL == 2 else quarter
        result = tl.inline_asm_elementwise(
            assembly,
            EXP2_CONSTRAINTS,
            [x, tl.broadcast_to(factor, x.shape)],
            dtype=tl.float32,
            is_pure=True,
            pack=EXP2_PACK,
        )
    return result


@triton.jit
def weight_of(exponent):
    """2^exponent of an exponent under 1, on the special function unit; results below 2^-126 are exactly 0."""
    result = tl.exp2(exponent)
    if INTERPRETED:
        result = tl.where(exponent >= SMALLEST_EXPONENT, result, 0.0)
    return result
