"""Reading optimised programs (HLO text): collectives, matrix products, fused attention kernels.

What stands in a loop counts as often as the loop turns. Branches count as the longer one.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}
# name = shape operation(operands
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(([^)]*)\)")


class Attention(NamedTuple):
    """The fused attention kernels (cuDNN's) of a program.

    Attributes:
      forward: how often such kernels run in a step.
      backward: the same, of their gradients.
      flops: of both, as without a causal mask.
    """

    forward: int
    backward: int
    flops: float


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Count the collectives of a compiled program.

    Args:
      hlo: text of an optimised program (`compiled.as_text()`).

    Returns:
      kind -> (times, bytes of the results: of what is gathered, reduced or received).
    """
    found: dict[str, tuple[int, int]] = {}
    chains = set()
    for line, times in _run(hlo):
        kind = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        chain = re.search(r'chain_id="(\d+)"', line)
        if not kind or (chain and (kind[2], chain[1]) in chains):
            continue
        if chain:  # one that is hidden behind a chain of others is written with each of them
            chains.add((kind[2], chain[1]))
        size = sum(_bytes(_result(kind[1], kind[2], started=bool(kind[3]))))
        count, total = found.get(kind[2], (0, 0))
        found[kind[2]] = (count + times, total + times * size)
    return found


def product_flops(hlo: str) -> float:
    """Count the FLOPs of a program's matrix products and convolutions (a multiply-add is two).

    They are `dot` operations, alone or inside a fusion, and calls of cuBLAS and cuDNN. Fused
    attention is not among them, nor are convolutions of programs that do not call cuDNN.
    """
    shapes = dict(_shapes(hlo))
    flops = 0.0
    for line, times in _run(hlo):
        if not (found := INSTRUCTION.match(line)):
            continue
        _, shape, operation, operands = found.groups()
        if operation == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
        elif operation == "custom-call" and "__cublas$" in line:
            contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', line)
        elif operation == "custom-call" and "__cudnn$conv" in line:
            contracted = None
        else:
            continue
        result, *inputs = [_dims(x)[0] for x in (shape, *(shapes[n] for n in _names(operands)))]
        if contracted:
            inner = math.prod(inputs[0][int(i)] for i in re.findall(r"\d+", contracted[1]))
            flops += times * 2 * math.prod(result) * inner
        else:
            flops += times * _convolution_flops(line, result, inputs)
    return flops


def _convolution_flops(line: str, result: list[int], inputs: list[list[int]]) -> float:
    """Count the FLOPs of a call of cuDNN: for each output and each weight of its channel, two."""
    if "$convBackwardInput" in line:
        output, kernel = inputs[:2]
    elif "$convBackwardFilter" in line:
        output, kernel = inputs[1], result
    else:
        output, kernel = result, inputs[1]
    labels = re.findall(r"dim_labels=\w+?_(\w+)->", line)[0]
    return 2 * math.prod(output) * math.prod(kernel) / kernel[labels.index("o")]


def attention(hlo: str) -> Attention:
    """Count cuDNN's fused attention kernels and their FLOPs.

    Forward is two products of [queries, keys], backward five.
    """
    forward = backward = 0
    flops = 0.0
    for line, times in _run(hlo):
        if not (
            call := re.search(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?(?:F8)?"', line)
        ):
            continue
        query, key = _dims(line.partition("operand_layout_constraints=")[2])[:2]  # [B, L, H, D]
        product = 2 * math.prod(query) * key[1]
        if call[1]:
            backward += times
            flops += times * 5 * product
        else:
            forward += times
            flops += times * 2 * product
    return Attention(forward, backward, flops)


def argument_bytes(hlo: str) -> dict[str, int]:
    """Return the bytes of a program's arguments on a device, by the argument's name in Python.

    What hangs together, as the leaves of a train state, is one argument.
    """
    found: dict[str, int] = {}
    bodies, entry = _bodies(hlo)
    for line in bodies[entry]:
        if " parameter(" in line and (name := re.search(r'op_name="(\w+)', line)):
            shape = INSTRUCTION.match(line)
            size = sum(_bytes(shape[2])) if shape else 0
            found[name[1]] = found.get(name[1], 0) + size
    return found


def convolutions(hlo: str) -> int:
    """Count the convolutions of a GPU program: calls of cuDNN."""
    return sum(times for line, times in _run(hlo) if '"__cudnn$conv' in line)


def _run(hlo: str) -> Iterator[tuple[str, int]]:
    """Yield every line that is run, and how often."""
    bodies, entry = _bodies(hlo)
    yield from _run_body(bodies, entry, 1)


def _bodies(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of every computation, by its name, and the name of the first to run."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _run_body(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    for line in bodies.get(name, ()):
        yield line, times
        if loop := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            yield from _run_body(bodies, loop[2], times * _turns(line, bodies[loop[1]]))
        for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
            yield from _run_body(bodies, called, times)
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        branches = branches or re.search(r"true_computation=(.*?), false_computation=(\S+)", line)
        if branches:
            # The step's branch on bad gradients: the longer one is the usual one.
            names = re.findall(r"[\w.\-]+", ",".join(branches.groups()))
            longest = max(names, key=lambda n: len(bodies.get(n, ())))
            yield from _run_body(bodies, longest, times)


def _turns(line: str, condition: list[str]) -> int:
    """Read how often a scan turns.

    GPU programs say it; in others the counter starts at 0 and is compared with a constant.
    """
    if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(told[1])
    limits = [n for c in condition for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", c)]
    return int(limits[0]) if len(limits) == 1 else 1


def _result(shapes: str, kind: str, started: bool) -> str:
    """Cut what a collective returns from the shapes that are written for it.

    Where all-gather and permute are started they return their operands and their results, as
    `((operands), (results))` or `(operand, result)`; all-reduce its results.
    """
    if not started or kind not in ("all-gather", "collective-permute"):
        return shapes
    if "), (" in shapes:
        return shapes.split("), (")[1]
    return max(re.findall(r"\w+\[[\d,]*\]", shapes), key=lambda x: _bytes(x)[0])


def _shapes(hlo: str) -> Iterator[tuple[str, str]]:
    for line in hlo.splitlines():
        if found := INSTRUCTION.match(line):
            yield found[1], found[2]


def _names(operands: str) -> list[str]:
    return re.findall(r"%?([A-Za-z_][\w.\-]*)(?:,|$)", operands)


def _dims(shapes: str) -> list[list[int]]:
    return [
        [int(n) for n in filter(None, dims.split(","))]
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]


def _bytes(shapes: str) -> list[int]:
    kinds = re.findall(r"(\w+)\[[\d,]*\]", shapes)
    bits = [BITS.get(kind) or int(re.sub(r"\D", "", kind) or 32) for kind in kinds]
    return [n * math.prod(dims) // 8 for n, dims in zip(bits, _dims(shapes), strict=True)]
