"""Reads compiled kernels: registers, spills, instruction counts of one column tile, and the time these predict.

    python tests/host_cuda/host_sass.py [80 | 90 | 90a]     prints the table of notes/2026-11-26-cuda-kernels.md

`read_library` reads all kernels of the built extension, `compile_cubin` and `read_cubin` those of one source file.

The main loop of a kernel is the smallest loop that holds both tensor core instructions and exponentials: one column
tile. Of the ways through it (tiles with and without weights, within and beyond the reach of their factors, with and without
the sums for a learned temperature) the shortest one of a tile with weights counts. What runs once a tile is counted on it
from the first block with exponentials to the end of the loop. Loops inside it that hold products are counted as often as the
shapes say; of the one pass of sm_90a at D = 64 the products for the columns' gradient, which a warpgroup takes of one tile
in three, are not. What comes before, the copies of the next tile and the wait for them, is not counted.

Model: pairs = N x N; time of a unit = operations per pair x pairs / rate of the unit. The floor is the slowest
unit, as if all ran side by side; the ceiling is their sum, as if nothing overlapped.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"


@dataclass(frozen=True)
class Device:
    """Rates of one GPU model; clock in GHz under load, tensor rate of the instruction in use, in TFLOP/s."""

    name: str
    multiprocessors: int
    clock: float
    tensor: float


A100 = Device("A100 (sm_80)", 108, 1.41, 312 * 0.85)
H200_MMA = Device("H200 (sm_90), mma.sync", 132, 1.755, 989 * 0.62)
H200_WGMMA = Device("H200 (sm_90a), wgmma", 132, 1.755, 780.0)


@dataclass
class Loop:
    """One column tile: what runs once, and the loops inside that hold products."""

    once: Counter[str]
    logits: Counter[str]  # one turn of the loop over the depth
    column: Counter[str]  # one piece of the columns' gradient, without the loop over rows inside it
    column_rows: Counter[str]  # one turn of that


@dataclass
class Kernel:
    """What the compiler made of one kernel."""

    name: str
    registers: int
    stack: int
    local: int
    instructions: Counter[str]
    loop: Loop | None
    row_tiles: int
    depth_tiles: int

    @property
    def forward(self) -> bool:
        return "forward_kernel" in self.name

    @property
    def backward(self) -> bool:
        return "backward_kernel" in self.name

    @property
    def fixed(self) -> bool:
        return "DefaultForm" in self.name

    @property
    def inside(self) -> bool:
        """The default form with positives inside."""
        return "DefaultFormILb1E" in self.name

    @property
    def weight_stats(self) -> bool:
        """With the statistics of the weights that no loss needs."""
        return re.search("DefaultFormILb[01]ELb1E", self.name) is not None

    @property
    def last_flag(self) -> bool:
        """The last template argument: symmetric of a forward, in one pass of a backward."""
        return "Lb1E" in re.sub(r"(DefaultForm|RunTimeOptions)I(Lb[01]E)+", "", self.name)

    @property
    def warpgroup(self) -> bool:
        return "Warpgroup" in self.name

    @property
    def engine(self) -> str:
        """Of a kernel that is written over one: its name with the element type."""
        found = re.search(r"Engine(?:Half|Warpgroup)INS0_\d+(?:BFloat16|Half)E|EngineFloat", self.name)
        return found[0] if found else ""

    @property
    def pairs(self) -> int:
        """Pairs of a thread in one column tile: 16 rows x 64 columns a row tile and warp, of float32 16 x 32."""
        return (16 if self.engine == "EngineFloat" else 32) * self.row_tiles

    def has(self, start: str) -> bool:
        return any(op.startswith(start) for op in self.instructions)

    @property
    def symmetric(self) -> bool:
        return self.last_flag if self.forward else "TermsE3" in self.name

    @property
    def one_pass(self) -> bool:
        return self.backward and self.last_flag

    def per_pair(self, pattern: str) -> float:
        """Of what runs once a tile."""
        assert self.loop is not None
        return sum(count for op, count in self.loop.once.items() if re.match(pattern, op)) / self.pairs

    def issued(self, depth: int, warps: int) -> float:
        """Instructions of a thread for one column tile."""
        assert self.loop is not None
        size = lambda part: sum(part.values())
        products = lambda part: sum(n for op, n in part.items() if op.startswith(("HMMA", "HGMMA"))) or 1
        step = 1 if self.warpgroup else 8 * self.row_tiles  # products in 16 of the depth
        total = float(size(self.loop.once)) + size(self.loop.logits) * step / products(self.loop.logits) * depth / 16
        if self.one_pass:
            rows = warps * 16 * self.row_tiles
            step = 1 if self.warpgroup else 8  # products in 16 of the rows
            pieces = -(-depth // 64) / (warps / 4)
            turns = rows / 16 * step / products(self.loop.column_rows)
            total += pieces * (size(self.loop.column) + size(self.loop.column_rows) * turns)
        return total


def tool(name: str) -> str | None:
    """nvcc, cuobjdump or nvdisasm: on PATH, in the toolkit, or (but for nvcc) in Triton's wheel."""
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
    """Compiles ``csrc/cuda/*/SOURCE.cu`` for ``sm_ARCHITECTURE``; RuntimeError with nvcc's output when it fails.

    What the compiler noted lies beside the result, with the suffix ``.notes``.
    """
    cubin = out / f"{source}.{architecture}.cubin"
    compiler = tool("nvcc")
    if compiler is None:
        raise RuntimeError("nvcc not found")
    command = [compiler, "-std=c++17", "-O3", f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    command += ["--ftz=true", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-cubin", f"-I{CSRC}", "-o", str(cubin)]
    command += map(str, CSRC.glob(f"cuda/*/{source}.cu"))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    cubin.with_suffix(".notes").write_text(done.stdout + done.stderr)
    return cubin


def read_library(library: Path, folder: Path) -> list[tuple[str, list[Kernel]]]:
    """(architecture, its kernels) of every compiled file in a library; the pieces are left in ``folder``."""
    dump = tool("cuobjdump")
    if dump is None:
        raise RuntimeError("cuobjdump not found")
    subprocess.run([dump, "-xelf", "all", str(library.resolve())], cwd=folder, capture_output=True, check=True)
    cubins = sorted(folder.glob("*.cubin"))
    with ThreadPoolExecutor(max_workers=2) as pool:
        read = list(pool.map(read_cubin, cubins))
    return [(cubin.name.split(".")[-2], kernels) for cubin, kernels in zip(cubins, read, strict=True)]


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
        if "Warpgroup" in name:  # one row tile a warp, or two; the forward counts 64s of the depth
            two = re.search("Li16ENS0_11DefaultFormILb0ELb.EEELNS0_5TermsE1ELb1E", name)  # 64s of rows
            numbers = [2 if two else 1, *(8 * n if "forward" in name else n for n in numbers)]
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
            )
        )
    return kernels


def _instructions(body: str) -> list[tuple[int, str, str]]:
    """(address, operation, its predicate and operands)"""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]+)([^;]*);", body)
    return [(int(address, 16), op, predicate + rest) for address, predicate, op, rest in found]


def _one_turn(code: list[tuple[int, str, str]], jumps: dict[int, int], first: int, last: int) -> list[int]:
    """One turn of a loop, forward all the way, the shortest for a tile with weights: with twice the exponentials of a tile
    without, where there are so many (what lies above is for rare rows), or with the most."""
    # for each instruction and number of exponentials before it: how long the way there is, and the instruction before
    ways: list[dict[int, tuple[int, int]]] = [{} for _ in code]
    ways[first] = {0: (0, first)}
    for i in range(first, last):
        op, rest = code[i][1:]
        ends = op in ("BRA", "EXIT", "RET") and not re.search(r"U?P\d", rest)
        for to in {*([] if ends else [i + 1]), jumps.get(i, first)}:
            for exponentials, (length, _) in ways[i].items() if i < to <= last else ():
                seen = exponentials + (op == "MUFU.EX2")
                if length + 1 < ways[to].get(seen, (len(code), 0))[0]:
                    ways[to][seen] = (length + 1, i)
    found = sorted(ways[last]) or [0]
    turn, exponentials = [last], next((n for n in found if n >= 2 * found[0] > 0), found[-1])
    while turn[-1] != first:
        before = ways[turn[-1]][exponentials][1]
        exponentials -= code[before][1] == "MUFU.EX2"
        turn.append(before)
    return turn[::-1]


def _main_loop(body: str) -> Loop | None:
    code = _instructions(body)
    index = {address: i for i, (address, _, _) in enumerate(code)}
    jumps = {}
    for i, (_, op, rest) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", rest) if op.startswith("BRA") else None
        if target is not None and int(target[1], 16) in index:
            jumps[i] = index[int(target[1], 16)]
    loops = sorted({(to, i) for i, to in jumps.items() if to <= i}, key=lambda loop: loop[1] - loop[0])
    ops = lambda first, last: [op for _, op, _ in code[first : last + 1]]
    has = lambda first, last, start: any(op.startswith(start) for op in ops(first, last))
    products = [(first, last) for first, last in loops if has(first, last, "HMMA") or has(first, last, "HGMMA")]
    main = next(((first, last) for first, last in products if has(first, last, "MUFU.EX2")), None)
    if main is None:
        return None
    inside = [(first, last) for first, last in loops if main[0] <= first and last < main[1]]
    leaders = sorted({main[0], main[1] + 1, *(i + 1 for i in jumps), *jumps.values()})
    blocks = [(s, e - 1) for s, e in itertools.pairwise(leaders) if main[0] <= s and e - 1 <= main[1]]
    turn = _one_turn(code, jumps, *main)
    start = next(s for s, e in blocks if has(s, e, "MUFU.EX2") and s in turn)
    outside = [i for i in turn if i >= start and not any(first <= i <= last for first, last in inside)]
    once = Counter(code[i][1] for i in outside)
    column = next(((first, last) for first, last in inside[::-1] if has(first, last, "RED")), None)
    within = lambda loop: column is not None and column[0] <= loop[0] and loop[1] < column[1]
    rows = next((loop for loop in products if within(loop)), None)
    logits = next((loop for loop in products if loop in inside and loop != column and not within(loop)), None)
    count = lambda loop: Counter(ops(*loop)) if loop else Counter()
    return Loop(once, count(logits), count(column) - count(rows), count(rows))


def warps_of(kernel: Kernel) -> int:
    """Warps that compute, in a block."""
    if kernel.warpgroup:
        if kernel.forward:
            return 16 if kernel.fixed and not kernel.inside else 12
        return 12 if kernel.depth_tiles == 8 else 8
    return 4 if kernel.forward or kernel.row_tiles == 2 else 8


def predict(kernel: Kernel, device: Device, depth: int, count: int = 100_000) -> dict[str, float]:
    """Milliseconds of each unit for N = M = ``count``; of a backward in two passes, one of them."""
    pairs = float(count) ** 2
    lanes = device.multiprocessors * device.clock * 1e9
    products = 1 if kernel.forward else 3 if kernel.one_pass else 2
    times = {
        "tensor": products * 2 * depth * pairs / (device.tensor * 1e12),
        "exp": kernel.per_pair("MUFU") * pairs / (16 * lanes),
        "issue": kernel.issued(depth, warps_of(kernel)) / kernel.pairs * pairs / (128 * lanes),
    }
    return {unit: time * 1e3 for unit, time in times.items()}


def row_of(kernel: Kernel, device: Device, depth: int) -> list[str]:
    """One line of the table of notes/2026-11-26-cuda-kernels.md."""
    if kernel.forward:
        name = "forward, symmetric" if kernel.symmetric else "forward"
    else:
        name = "backward, one pass" if kernel.one_pass else "backward, one of two passes"
        name += ", symmetric" if kernel.symmetric else ""
    times = predict(kernel, device, depth)
    numbers = [kernel.per_pair("MUFU"), kernel.issued(depth, warps_of(kernel)) / kernel.pairs]
    cells = [name, str(depth), str(kernel.registers), f"{numbers[0]:.2f}", f"{numbers[1]:.1f}"]
    return cells + [f"{t:.1f}" for t in (*times.values(), max(times.values()), sum(times.values()))]


def main() -> None:
    architecture = sys.argv[1] if len(sys.argv) > 1 else "80"
    device = {"80": A100, "90": H200_MMA, "90a": H200_WGMMA}[architecture]
    source = "kernels_sm90a_bfloat16" if architecture == "90a" else "kernels_sm80_bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        kernels = [k for k in read_cubin(compile_cubin(source, architecture, Path(folder))) if "BFloat16" in k.name]
    print(f"{device.name}, bfloat16, default form of the loss, N = M = 100,000; milliseconds")
    titles = "kernel, D, registers, exp ops/pair, instr/pair, tensor, exp, issue, floor, ceiling"
    print("| " + " | ".join(titles.split(", ")) + " |")
    print("|" + " --- |" * len(titles.split(", ")))
    for depth in (64, 128, 256):
        for kernel in kernels:
            shown = kernel.forward or (kernel.backward and kernel.depth_tiles * 8 == depth and "TermsE2" not in kernel.name)
            if kernel.fixed and shown and not kernel.inside:
                print("| " + " | ".join(row_of(kernel, device, depth)) + " |")


if __name__ == "__main__":
    main()
