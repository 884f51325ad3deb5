"""Memory and file size from a plan, against TFLite's own arena and the file."""

import json
import subprocess
import sys

import numpy as np
import pytest

from spaceevo.nn.footprint import activation_bytes, tflite_bytes
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import INPUT, Add, Conv, Linear, Plan, Pool
from spaceevo.space import load_hyperspace, parse_network, sample_space, sample_subnet

# In a process of its own: TensorFlow and torch fight over threads.
ARENA = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from spaceevo.export.tflite import to_tflite
from spaceevo.nn.network import subnet_plan
from spaceevo.quant.graph import random_graph
from spaceevo.space import parse_space

for code, subnet_code, classes in json.loads(sys.argv[1]):
    space = parse_space(code)
    subnet = space.subnet(subnet_code)
    graph = random_graph(subnet_plan(space, subnet, classes), subnet.resolution, np.random.default_rng(0))
    model = to_tflite(graph)
    interpreter = Interpreter(
        model_content=model,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    written = {tensor for op in interpreter._get_ops_details() for tensor in op["outputs"]}
    written |= {detail["index"] for detail in interpreter.get_input_details()}
    views = [interpreter.tensor(tensor)() for tensor in written]
    ends = [view.ctypes.data + view.nbytes for view in views]
    print(json.dumps([max(ends) - min(view.ctypes.data for view in views), len(model)]))
"""


def drawn():
    rng = np.random.default_rng(3)
    cases = [(*parse_network(name), 1000) for name in ("SEQnet@pixel4-A0", "SEQnet@vnni-A0")]
    for _ in range(4):
        space = sample_space(load_hyperspace("tiny"), rng)
        cases.append((space, sample_subnet(space, rng), 10))
    return cases


def test_both_are_those_of_tflite():
    pytest.importorskip("ai_edge_litert")
    cases = drawn()
    codes = json.dumps([(space.code, subnet.code, classes) for space, subnet, classes in cases])
    done = subprocess.run([sys.executable, "-c", ARENA, codes], capture_output=True, text=True, check=True)
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == len(cases)
    for (space, subnet, classes), (arena, size) in zip(cases, measured, strict=True):
        plan = subnet_plan(space, subnet, classes)
        assert activation_bytes(plan, subnet.resolution) == pytest.approx(arena, rel=0.12)
        assert tflite_bytes(plan, subnet.resolution) == pytest.approx(size, rel=0.015)


def conv(output, source, cin, cout, kernel_size=1, stride=1):
    return Conv(output, source, output, None, cin, cout, kernel_size, stride, 1, True, None)


def test_an_arena_by_hand():
    """Input 64, a 512, b 512; b takes no part of the input, which stays; the sum takes the place of a."""
    plan = Plan(1, (conv("a", INPUT, 1, 8), conv("b", "a", 8, 8), Add("sum", "a", "b", None)))
    assert activation_bytes(plan, 8) == 64 + 512 + 512


def test_a_kernel_gathers_its_inputs():
    plan = Plan(1, (conv("a", INPUT, 1, 8, kernel_size=3),))
    assert activation_bytes(plan, 8) == 64 + 576 + 512


def test_what_is_read_no_more_gives_way():
    ops = (
        conv("a", INPUT, 1, 8),
        conv("b", "a", 8, 8),
        conv("c", "b", 8, 8),
        Pool("p", "c"),
        Linear("l", "p", "l", 8, 4),
    )
    assert activation_bytes(Plan(1, ops), 8) == 64 + 512 + 512
