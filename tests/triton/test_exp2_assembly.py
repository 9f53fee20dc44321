"""The PTX of the weight exponential, instruction by instruction in float32, against 2^x."""

import re

import numpy as np
import pytest

from laparoflow_kernels.backends.triton.exponentials import exp2_assembly

F32 = np.float32
SMALLEST = F32(2.0**-126)


def number(text: str) -> np.float32:
    return np.array([int(text[2:], 16)], np.uint32).view(np.float32)[0]


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < SMALLEST, F32(0), x).astype(F32)


def execute(assembly: str, operands: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Run straight-line PTX on arrays; operands are the inputs $pack, $pack + 1, ..."""
    pack = len(operands) // 2
    values: dict[str, np.ndarray] = {f"${pack + i}": x for i, x in enumerate(operands)}
    shape = operands[0].shape

    def get(text: str) -> np.ndarray:
        return np.full(shape, number(text)) if text.startswith("0f") else values[text]

    for line in assembly.strip("{}\n").replace("\n", " ").split(";"):
        line = line.strip()
        if not line or line.startswith(".reg"):
            continue
        name, arguments = line.split(" ", 1)
        target, *sources = (part.strip() for part in arguments.split(","))
        if name == "shl.b32":
            values[target] = (values[sources[0]].view(np.uint32) << int(sources[1])).view(F32)
            continue
        if name == "add.s32":
            with np.errstate(over="ignore"):
                values[target] = sum(values[source].view(np.uint32) for source in sources).astype(np.uint32).view(F32)
            continue
        a = [get(source) for source in sources]
        double = [x.astype(np.float64) for x in a]
        with np.errstate(all="ignore"):
            if name == "fma.rn.f32":
                result = (double[0] * double[1] + double[2]).astype(F32)
            elif name == "sub.rn.f32":
                result = (double[0] - double[1]).astype(F32)
            elif name in ("mov.f32", "mov.b32"):
                result = a[0]
            elif name == "mul.rn.f32":
                result = (double[0] * double[1]).astype(F32)
            elif name == "mul.ftz.f32":
                result = flushed((flushed(a[0]).astype(np.float64) * flushed(a[1])).astype(F32))
            elif name == "ex2.approx.ftz.f32":
                result = flushed(np.exp2(double[0]).astype(F32))
            else:
                raise AssertionError(f"unknown instruction {name}")
        values[target] = result
    return values


@pytest.mark.parametrize("special", [1, 2, 4])
def test_the_assembly_is_the_exponential(special: int) -> None:
    exponent = np.concatenate([np.linspace(-127, 0, 200_001), -np.geomspace(1e-9, 126.999, 100_000), [-126.0, -127.0, 0.0]])
    factor = F32(-0.72134752)
    distance = (exponent / factor).astype(F32)
    exact = np.exp2(distance.astype(np.float64) * np.float64(factor))
    operands = [distance] * 4 + [np.full(distance.shape, factor)] * 4
    values = execute(exp2_assembly(4, special), operands)
    for index in range(4):
        got = values[f"${index}"]
        normal = exact >= 2.0**-126 * (1 + 1e-5)
        assert (got[exact < 2.0**-126 * (1 - 1e-5)] == 0).all()
        relative = np.abs(got[normal] / exact[normal] - 1)
        # the special unit rounds its argument first, as any exp does: 127 * 2^-24 * ln 2
        assert relative.max() < (3e-7 if index >= special else 6e-6)
        assert (got[(got > 0)] >= SMALLEST).all()
        assert got[distance == 0] == pytest.approx(1.0, abs=0)


@pytest.mark.parametrize("special", [1, 2])
def test_the_bounded_assembly_is_the_exponential_over_its_range(special: int) -> None:
    exponent = np.concatenate([np.linspace(-100, 100, 200_001), np.geomspace(1e-9, 1e-3, 1000), [0.0]])
    factor = F32(14.426950)
    product = (exponent / factor).astype(F32)
    exact = np.exp2(product.astype(np.float64) * np.float64(factor))
    operands = [product] * 4 + [np.full(product.shape, factor)] * 4
    values = execute(exp2_assembly(4, special, bounded=True), operands)
    for index in range(4):
        relative = np.abs(values[f"${index}"] / exact - 1)
        assert relative.max() < (3e-7 if index >= special else 5e-6)
        assert values[f"${index}"][product == 0] == pytest.approx(1.0, abs=0)


def test_the_share_of_the_special_unit_is_what_the_name_says() -> None:
    for special in (1, 2, 4):
        assert len(re.findall(r"ex2\.approx", exp2_assembly(4, special))) == special
