"""The FP32 counterpart: the same operations as runtimes have them, and no quantized tensor."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from spaceevo.export.fp32 import fp32_onnx
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Conv, Linear
from spaceevo.space import BlockChoice, parse_space

SPACE = parse_space("tiny-4664-1222")
CONVERT = """
import sys
import numpy as np
from pathlib import Path
from spaceevo.export.fp32 import fp32_tflite
from spaceevo.nn.blocks import block_plan
from spaceevo.space import BlockChoice
plan = block_plan("mobilenetv3_res", "hswish", 16, BlockChoice(7, 16, 3.0), 1)
Path(sys.argv[1]).write_bytes(fp32_tflite(plan, 14, np.random.default_rng(0)))
"""


def run(model, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]


@pytest.mark.parametrize("subnet", [SPACE.smallest, SPACE.largest], ids=["smallest", "largest"])
def test_a_network_runs_in_onnxruntime(subnet):
    plan = subnet_plan(SPACE, subnet, 10)
    model = fp32_onnx(plan, subnet.resolution, np.random.default_rng(0))
    content = onnx.load_model_from_string(model)
    layers = [op for op in plan.ops if isinstance(op, Conv | Linear)]
    assert sum(node.op_type == "Conv" for node in content.graph.node) == len(layers)
    assert not {node.op_type for node in content.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    x = np.random.default_rng(1).standard_normal((1, 3, subnet.resolution, subnet.resolution), dtype=np.float32)
    found = run(model, x)
    assert found.shape == (1, 10, 1, 1) and np.isfinite(found).all() and np.ptp(found) > 0


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        ("hswish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("hsigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("swish", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_activations_are_what_their_names_say(activation, expected):
    choice = BlockChoice(3, 8)
    x = 4 * np.random.default_rng(1).standard_normal((1, 4, 6, 6), dtype=np.float32)
    bare, activated = (
        run(fp32_onnx(block_plan("conv_bn_act", kind, 4, choice, 2), 6, np.random.default_rng(0)), x)
        for kind in (None, activation)
    )
    assert bare.shape == (1, 8, 3, 3)
    np.testing.assert_allclose(activated, expected(bare), atol=1e-5)


def test_a_block_runs_in_tflite(tmp_path):
    pytest.importorskip("tensorflow")
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "block.tflite"
    subprocess.run([sys.executable, "-c", CONVERT, str(path)], check=True, capture_output=True, timeout=300)
    interpreter = interpreters.Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert tuple(given["shape"]) == tuple(output["shape"]) == (1, 14, 14, 16)
    assert {details["dtype"] for details in interpreter.get_tensor_details()} <= {np.float32, np.int32}
    interpreter.set_tensor(given["index"], np.ones((1, 14, 14, 16), np.float32))
    interpreter.invoke()
    assert np.ptp(interpreter.get_tensor(output["index"])) > 0
