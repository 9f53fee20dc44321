"""Reads compiled kernels: registers, spills, instruction counts of the main loop, and the time these predict.

    python tests/host_cuda/host_sass.py [ARCHITECTURE]     prints the table of docs/GPU.md

The main loop of a kernel is the smallest loop that holds both tensor core instructions and exponentials: one
column tile. Arithmetic in it runs once a tile in the default form of the loss; the loop over depth inside it
runs depth / 16 / unroll times, which the tensor core time accounts for from the shapes instead.

Model: pairs = N x N; time of a unit = operations per pair x pairs / rate of the unit. The floor is the slowest
unit, as if all ran side by side; the ceiling is their sum, as if nothing overlapped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"
PAIRS_PER_THREAD = {
    "bfloat16": 32,
    "half": 32,
    "float": 16,
    "sm90a": 32,
}  # times row tiles: a warp's 16 rows x a column tile
ARITHMETIC = re.compile(r"FFMA|FADD|FMUL|FMNMX|FSEL|FSETP|LEA|IMAD|F2FP|SHFL|LDS|LDSM|MUFU|HMMA|HGMMA|PRMT|SEL")


@dataclass(frozen=True)
class Device:
    """Rates of one GPU model; clock in GHz under load, tensor rate of the instruction in use, in TFLOP/s."""

    name: str
    multiprocessors: int
    clock: float
    tensor: float
    registers: int = 65536
    shared_kib: int = 164


A100 = Device("A100 (sm_80)", 108, 1.41, 312 * 0.85)
H200_MMA = Device("H200 (sm_90), mma.sync", 132, 1.755, 989 * 0.62, shared_kib=228)
H200_WGMMA = Device("H200 (sm_90a), wgmma", 132, 1.755, 780.0, shared_kib=228)


@dataclass
class Kernel:
    """What the compiler made of one kernel."""

    name: str
    registers: int
    stack: int
    local: int
    instructions: Counter[str]
    loop: Counter[str]
    row_tiles: int
    depth_tiles: int
    fixed: bool
    symmetric: bool

    @property
    def forward(self) -> bool:
        return "forward_kernel" in self.name

    def per_pair(self, pattern: str, pairs: int) -> float:
        return sum(count for op, count in self.loop.items() if re.match(pattern, op)) / pairs


def tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: on PATH, in the toolkit, or in Triton's wheel."""
    found = shutil.which(name)
    if found:
        return found
    places = [Path("/usr/local/cuda/bin")]
    try:
        import triton

        places.append(Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    except ImportError:
        pass
    return next((str(place / name) for place in places if (place / name).exists()), None)


def compile_cubin(source: str, architecture: str, out: Path) -> Path:
    """Compiles ``csrc/cuda/SOURCE.cu`` for ``sm_ARCHITECTURE``; RuntimeError with nvcc's output when it fails."""
    cubin = out / f"{source}.{architecture}.cubin"
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", f"-I{CSRC}", str(CSRC / "cuda" / f"{source}.cu"), "-o", str(cubin)]
    command.insert(3, f"-gencode=arch=compute_{architecture},code=sm_{architecture}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return cubin


def read_cubin(cubin: Path) -> list[Kernel]:
    dump = tool("cuobjdump")
    if dump is None:
        raise RuntimeError("cuobjdump not found")
    usage = subprocess.run([dump, "-res-usage", str(cubin)], capture_output=True, text=True, check=True).stdout
    sass = subprocess.run([dump, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    bodies = {part.split()[0]: part for part in sass.split("Function : ")[1:]}
    kernels = []
    for match in re.finditer(r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage):
        name, body = match[1], bodies[match[1]]
        numbers = [int(x) for x in re.findall(r"Li(\d+)E", name)]
        kernels.append(
            Kernel(
                name,
                int(match[2]),
                int(match[3]),
                int(match[4]),
                Counter(op for _, op, _ in _instructions(body)),
                _main_loop(body),
                row_tiles=numbers[0] if numbers else 0,
                depth_tiles=numbers[1] if len(numbers) > 1 else 0,
                fixed="FixedOptions" in name,
                symmetric="Lb1E" in name,
            )
        )
    return kernels


def _instructions(body: str) -> list[tuple[int, str, str]]:
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]+)([^;]*);", body)
    return [(int(address, 16), op, rest) for address, op, rest in found]


def _main_loop(body: str) -> Counter[str]:
    code = _instructions(body)
    index = {address: i for i, (address, _, _) in enumerate(code)}
    best: tuple[int, int] | None = None
    for i, (address, op, rest) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", rest) if op.startswith("BRA") else None
        if target is None or int(target[1], 16) > address or int(target[1], 16) not in index:
            continue
        first = index[int(target[1], 16)]
        ops = [op for _, op, _ in code[first : i + 1]]
        tensor = any("MMA" in op for op in ops)
        if tensor and any(op.startswith("MUFU.EX2") for op in ops) and (best is None or i - first < best[1] - best[0]):
            best = (first, i)
    return Counter(op for _, op, _ in code[best[0] : best[1] + 1]) if best else Counter()


def predict(
    kernel: Kernel, device: Device, depth: int, count: int = 100_000, pairs_per_thread: int = 32
) -> dict[str, float]:
    """Milliseconds of each unit for N = M = ``count``; of a backward kernel, one of its two passes."""
    pairs = float(count) ** 2
    mine = pairs_per_thread * kernel.row_tiles
    lanes = device.multiprocessors * device.clock * 1e9
    products = 1 if kernel.forward else 2
    tensor = products * 2 * depth * pairs / (device.tensor * 1e12)
    exp = kernel.per_pair("MUFU", mine) * pairs / (16 * lanes)
    issue = kernel.per_pair(ARITHMETIC.pattern, mine) * pairs / (128 * lanes)
    return {"tensor": tensor * 1e3, "exp": exp * 1e3, "issue": issue * 1e3}


def occupancy(kernel: Kernel, device: Device, threads: int, shared_bytes: int) -> int:
    """Blocks that fit a multiprocessor by registers and shared memory."""
    per_warp = -(-kernel.registers * 32 // 256) * 256
    return min(device.registers // (per_warp * threads // 32), device.shared_kib * 1024 // (shared_bytes + 1024))


def shared_bytes(kernel: Kernel, depth: int, warps: int) -> int:
    stride = -(-depth // 16) * 16 + 8
    rows = warps * 16 * kernel.row_tiles
    stage = 64 * (stride * 2 + (4 if kernel.forward else 8) * 4)
    sums = warps * 4 * 64 * 4 if kernel.symmetric else 0
    return rows * (stride * 2 + 12) + 2 * stage + sums


def main() -> None:
    architecture = sys.argv[1] if len(sys.argv) > 1 else "80"
    device = A100 if architecture == "80" else H200_MMA
    with tempfile.TemporaryDirectory() as folder:
        kernels = read_cubin(compile_cubin("kernels_bfloat16", architecture, Path(folder)))
    print(f"{device.name}, bfloat16, default form of the loss, N = M = 100,000; milliseconds")
    titles = "kernel, D, registers, shared KiB, blocks/SM, exp ops/pair, instr/pair, tensor, exp, issue, floor, ceiling"
    print("| " + " | ".join(titles.split(", ")) + " |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for depth in (64, 128, 256):
        for kernel in kernels:
            if not kernel.fixed or not (kernel.forward or kernel.depth_tiles * 8 == depth):
                continue
            warps = 4 if kernel.forward or kernel.row_tiles == 2 else 8
            name = ("forward, symmetric" if kernel.symmetric else "forward") if kernel.forward else "backward, one side"
            mine = 32 * kernel.row_tiles
            memory = shared_bytes(kernel, depth, warps)
            times = predict(kernel, device, depth)
            cells = [name, depth, kernel.registers, f"{memory / 1024:.0f}", occupancy(kernel, device, warps * 32, memory)]
            cells += [f"{kernel.per_pair('MUFU', mine):.2f}", f"{kernel.per_pair(ARITHMETIC.pattern, mine):.1f}"]
            cells += [f"{times[unit]:.1f}" for unit in ("tensor", "exp", "issue")]
            cells += [f"{max(times.values()):.1f}", f"{sum(times.values()):.1f}"]
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
