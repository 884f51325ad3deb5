"""What a network takes on a device besides time: memory for activations, and bytes of the file.

Memory is what TFLite plans for a model without a delegate (tensorflow/lite/arena_planner.cc): every tensor has one
place in an arena from the operation that writes it to the last one that reads it; larger tensors are placed first,
each in the smallest gap that it fits. The input keeps its place throughout. A sum or product takes the place of an
input that nothing else reads. Convolutions that read more than one pixel, or skip some, gather their inputs in a
temporary tensor first.
"""

from __future__ import annotations

from typing import NamedTuple

from spaceevo.nn.plan import Add, Conv, Gate, Linear, Op, Plan, Pool, Shape

ALIGNMENT = 64  # bytes
SMOOTH_STEPS = {"swish": 1, "hswish": 2}  # tensors between the input of such an activation and its output

# Bytes of a TFLite file. Per output channel: a bias of 4, and a scale and a zero point (12) of weight and bias.
BYTES_PER_CHANNEL = 28
BYTES_PER_TENSOR = 360  # name, shape, grid and operator of an activation, on average
BYTES_PER_FILE = 3850


class _Tensor(NamedTuple):
    size: int
    first: int
    last: int


def activation_bytes(plan: Plan, height: int) -> int:
    """Bytes of the arena that holds all activations of a network on a `height` × `height` input, in INT8."""
    plan = plan.without_unit_pools(height)
    return _arena(_schedule(plan, height).tensors(plan.output))


def tflite_bytes(plan: Plan, height: int) -> int:
    """About how many bytes the TFLite file of a network has; weights are counted exactly."""
    plan = plan.without_unit_pools(height)
    total = 0
    for op in plan.ops:
        if isinstance(op, Conv):
            total += op.out_channels * (op.in_channels // op.groups) * op.kernel_size**2
        elif isinstance(op, Linear):
            total += op.in_channels * op.out_channels
        if isinstance(op, Conv | Linear):
            total += BYTES_PER_CHANNEL * op.out_channels
    return total + BYTES_PER_FILE + BYTES_PER_TENSOR * len(_schedule(plan, height).size)


class _Schedule:
    """Operations in the order of the file, and between which of them each tensor lives."""

    def __init__(self, input: str, size: int) -> None:
        self.size = {input: size}
        self.written = {input: 0}
        self.reads: dict[str, list[int]] = {input: []}
        self.elementwise: dict[str, tuple[str, ...]] = {}  # inputs of each sum and product, by output
        self.temporary: list[_Tensor] = []
        self.input = input
        self.step = -1

    def add(self, output: str, size: int, *inputs: str, elementwise: bool = False) -> None:
        self.step += 1
        self.size[output], self.written[output], self.reads[output] = size, self.step, []
        for name in inputs:
            self.reads[name].append(self.step)
        if elementwise:
            self.elementwise[output] = inputs

    def tensors(self, output: str) -> list[_Tensor]:
        """What takes a place in the arena."""
        last = {name: max(steps, default=self.written[name]) for name, steps in self.reads.items()}
        last[self.input] = last[output] = self.step
        place = {name: name for name in self.size}
        for name, inputs in self.elementwise.items():
            for source in inputs:
                if source != self.input and self.size[source] == self.size[name] and len(self.reads[source]) == 1:
                    place[name] = place[source]
                    last[place[source]] = max(last[place[source]], last[name])
                    break
        return [
            _Tensor(self.size[name], self.written[name], last[name]) for name, own in place.items() if own == name
        ] + self.temporary


def _schedule(plan: Plan, height: int) -> _Schedule:
    shapes = plan.shapes(height)
    schedule = _Schedule(plan.input, shapes[plan.input].numel)
    for op in plan.ops:
        shape, size = shapes[op.input], shapes[op.output].numel
        sources = _sources(op)
        if isinstance(op, Conv) and _padded(op, shape):
            around = 2 * (op.kernel_size // 2)
            padded = f"{op.output} padded"
            schedule.add(padded, shape.channels * (shape.height + around) * (shape.width + around), *sources)
            sources = (padded,)
        smooth = op.activation if isinstance(op, Conv | Add) and op.activation in SMOOTH_STEPS else None
        target = op.output if smooth is None else f"{op.output} before"
        schedule.add(target, size, *sources, elementwise=isinstance(op, Add | Gate))
        if isinstance(op, Conv) and op.groups == 1 and (op.kernel_size > 1 or op.stride > 1):
            out = shapes[op.output]
            gathered = out.height * out.width * op.kernel_size**2 * op.in_channels
            schedule.temporary.append(_Tensor(gathered, schedule.step, schedule.step))
        if smooth is not None:
            gate = target
            for number in range(SMOOTH_STEPS[smooth]):
                step = f"{op.output} gate {number}"
                schedule.add(step, size, gate, elementwise=smooth == "hswish")
                gate = step
            schedule.add(op.output, size, target, gate, elementwise=True)
    return schedule


def _sources(op: Op) -> tuple[str, ...]:
    match op:
        case Add():
            return op.input, op.other
        case Gate():
            return op.input, op.gate
        case Conv() | Linear() | Pool():
            return (op.input,)


def _padded(conv: Conv, shape: Shape) -> bool:
    """Whether the file pads explicitly: TensorFlow's own padding is another one at an even size and stride 2."""
    odd = shape.height % 2 == 1 and shape.width % 2 == 1
    return conv.kernel_size > 1 and conv.stride > 1 and not (odd and conv.stride == 2)


def _arena(tensors: list[_Tensor]) -> int:
    """Bytes of an arena in which tensors that live at the same time do not overlap."""
    placed: list[tuple[int, _Tensor]] = []
    end = 0
    for tensor in sorted(tensors, key=lambda t: (-t.size, t.first)):
        best, smallest_gap, free = None, None, 0
        for offset, other in sorted(placed):
            if other.last < tensor.first or other.first > tensor.last:
                continue
            start = _aligned(free)
            if start + tensor.size <= offset and (smallest_gap is None or offset - free < smallest_gap):
                best, smallest_gap = start, offset - free
            free = max(free, offset + other.size)
        start = _aligned(free) if best is None else best
        placed.append((start, tensor))
        end = max(end, start + tensor.size)
    return end


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
