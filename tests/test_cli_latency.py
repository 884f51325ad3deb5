"""`spaceevo latency`: measured where the device is at hand, predicted elsewhere, and its errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from spaceevo.artifacts import Record
from spaceevo.cli import app
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.measure import Measurement, measure_with_reference
from spaceevo.latency.predictor import write_predictor
from spaceevo.space import parse_network, parse_space

SPACE = parse_space("tiny-4664-1222")
NETWORK = (SPACE.code, SPACE.smallest.code)


def run(*arguments: str):
    return CliRunner().invoke(app, ["latency", *map(str, arguments)])


def run_json(*arguments: str) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def sentence(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


def model(path: Path, *shape: int | str, inputs: int = 1) -> Path:
    """An ONNX file that adds up its inputs."""
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    node = helper.make_node("Sum", [value.name for value in values], ["y"])
    graph = helper.make_graph([node], "sum", values, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_table_predicts_with_its_confidence() -> None:
    space, subnet = parse_network("SEQnet@pixel4-A1")
    expected = table_predictor(load_device("pixel4")).predict_subnet(space, subnet, 1000)
    for arguments in (("SEQnet@pixel4-A1",), (space.code, subnet.code), ("spaceevo@pixel4", "SEQnet@pixel4-A1")):
        found = run_json("pixel4", *arguments)
        assert (found["how"], found["subnet"], found["classes"]) == ("predicted", subnet.code, 1000)
        assert found["latency_ms"] == pytest.approx(expected.latency_ms) and found["error"] == expected.error
        low, high = found["interval_ms"]
        assert (low + high) / 2 == pytest.approx(found["latency_ms"]) and low < high
    text = run("pixel4", "SEQnet@pixel4-A1").stdout
    assert f"{expected.latency_ms:.4g} ms" in text and f"within {expected.error:.1%}" in text


def test_a_device_at_hand_measures() -> None:
    found = run_json("cpu", *NETWORK)
    assert (found["how"], found["rounds"], found["classes"]) == ("measured", 21, 10)
    low, high = found["interval_ms"]
    assert 0 < low <= found["latency_ms"] <= high
    assert found["machine"] == load_device("cpu").how.machine(load_device("cpu"))
    assert found["reference_ms"] > found["latency_ms"]  # the largest of its space


def test_a_file_is_measured(tmp_path: Path) -> None:
    found = run_json("cpu", model(tmp_path / "net.onnx", 1, 3, 16, 16))
    assert found["how"] == "measured" and found["file"].endswith("net.onnx")
    assert "measured" in run("cpu", model(tmp_path / "free_batch.onnx", "N", 3, 16, 16)).stdout


def test_a_profiled_device_predicts_where_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    machine = load_device("cpu").how.machine(load_device("cpu"))
    predictor = replace(table_predictor(load_device("pixel4")), device="cpu", machine=machine)
    path = Path("results/cpu/latency_predictor.json")
    write_predictor(path, predictor, Record({}))
    expected = predictor.predict_subnet(SPACE, SPACE.smallest, 10).latency_ms
    for arguments in (("--predict",), ("--predictor", path)):
        found = run_json("cpu", *NETWORK, *arguments)
        assert found["how"] == "predicted" and found["latency_ms"] == pytest.approx(expected)
    write_predictor(path, replace(predictor, machine=machine | {"cpu": "Pentium II"}), Record({}))
    assert "Pentium II there" in sentence("cpu", *NETWORK, "--predict")


def test_a_phone_that_is_away_is_predicted_from_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert "needs adb" in sentence("pixel4-adb", *NETWORK)
    predictor = replace(table_predictor(load_device("pixel4")), device="pixel4-adb", machine={"phone": "Pixel 4"})
    write_predictor("results/pixel4-adb/latency_predictor.json", predictor, Record({}))
    assert run_json("pixel4-adb", *NETWORK)["how"] == "predicted"


def test_a_machine_too_noisy_for_the_interval_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceevo.latency import bench

    class Noisy:
        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)

        def round_ms(self, round_s: float) -> float:
            return float(np.exp(0.3 * self.rng.normal()))

    def noisily(models: list, reference: object, options: object, **rest: object) -> Measurement:
        return measure_with_reference([Noisy(0)], Noisy(1), options)

    monkeypatch.setattr(bench, "measure_with_reference", noisily)
    assert "too noisy to know latencies to ±1.00%: after 61 rounds" in sentence("cpu", *NETWORK, "--interval", "0.01")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 16), "does not read a picture: its input is 1 × 16,"),
        ((1, 64, 8, 8), "does not read a picture: its input is 1 × 64 × 8 × 8,"),
        ((8, 3, 16, 16), "does not read a picture: its input is 8 × 3 × 16 × 16,"),
        ((1, 3, "H", "W"), "leaves the size of its picture open (1 × 3 × ? × ?)"),
    ],
)
def test_a_file_that_reads_no_picture(tmp_path: Path, shape: tuple, said: str) -> None:
    assert said in sentence("cpu", model(tmp_path / "net.onnx", *shape))


def test_a_file_that_reads_words(tmp_path: Path) -> None:
    words = [helper.make_tensor_value_info(name, TensorProto.STRING, (1, 3, 8, 8)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", words[:1], words[1:])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    assert f"{path} cannot be run on a picture of numbers" in sentence("cpu", path)


def test_a_file_that_reads_several_inputs(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", 1, 3, 8, 8, inputs=2)
    assert f"{path} reads 2 inputs (x0, x1)" in sentence("cpu", path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pixel9", *NETWORK), "There is no device 'pixel9'"),
        (("pixel4", "net.onnx"), "Nothing can be run on pixel4"),
        (("cpu", "net.tflite"), "The device cpu runs .onnx files and net.tflite is none"),
        (("cpu", "net.onnx"), "net.onnx cannot be read"),
        (("cpu", "net.onnx", NETWORK[1]), "leave out the subnet"),
        (("cpu", "net.onnx", "--predict"), "leave out --predict"),
        (("cpu", SPACE.code), "is a space, which has many subnets"),
        (("cpu", "SEQnet@pixel4-A1", NETWORK[1]), "is a subnet already"),
        (("cpu", "SEQnet@pixel4-A9"), "SEQnet@pixel4-A4"),
        (("cpu", SPACE.code, NETWORK[1].replace("_r16", "_r17")), "Resolution 17"),
        (("cpu", *NETWORK, "--predict"), "latency_predictor.json does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in sentence(*arguments)
