"""Device files: what is shipped loads, what is wrong is refused in one sentence."""

import importlib.util
from contextlib import nullcontext

import pytest

from spaceevo.artifacts import Record, read_json, write_json
from spaceevo.errors import ArtifactError, DeviceError
from spaceevo.latency import devices
from spaceevo.latency.bench import measure_files
from spaceevo.latency.devices import at_hand, check_runtime, load_device, own_suffix, shipped_devices, table_predictor
from spaceevo.latency.runtimes import InProcessRuntime


def test_the_shipped_devices():
    assert {"cpu", "cpu-tflite", "pixel4", "pixel4-adb", "vnni"} <= set(shipped_devices())


@pytest.mark.parametrize("name", shipped_devices())
def test_every_shipped_device_loads_and_can_predict_or_be_measured(name):
    device = load_device(name)
    assert device.name == name and device.description
    if device.measured:
        assert device.suffix in (".onnx", ".tflite")
        with pytest.raises(DeviceError, match=f"{name} has no shipped predictor"):
            table_predictor(device)
    else:
        assert table_predictor(device).device == name
        with pytest.raises(DeviceError, match=f"run on {name}"):
            _ = device.suffix


def test_each_device_has_files_of_its_own():
    suffixes = {name: own_suffix(load_device(name)) for name in shipped_devices()}
    assert {name for name, suffix in suffixes.items() if suffix == ".onnx"} == {"cpu", "vnni"}
    assert set(suffixes.values()) == {".onnx", ".tflite"}


@pytest.mark.parametrize(
    ("runtime", "stated", "suffix"),
    [
        ("onnxruntime 1.31.1", "", ".onnx"),
        ("ai-edge-litert 2.3.0", "", ".tflite"),
        ("openvino 2026.1", "format: onnx\n", ".onnx"),
        (None, "format: onnx\n", ".onnx"),
        (None, "", ".tflite"),
    ],
)
def test_the_files_of_a_table_are_those_it_was_measured_with(tmp_path, runtime, stated, suffix):
    """Its own file may say which."""
    content = read_json(devices.SHIPPED.parent / "predictors" / "vnni.json", "latency_predictor")
    machine = {} if runtime is None else {"machine": {"runtime": runtime}}
    write_json(tmp_path / "server.json", "latency_predictor", content | machine, Record({}))
    (tmp_path / "server.yaml").write_text(f"runtime: table\npredictor: server.json\n{stated}")
    assert own_suffix(load_device(tmp_path / "server.yaml")) == suffix


def test_a_device_of_ones_own(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("runtime: onnxruntime\nthreads: 4\nmeasure: {rounds: 9}\n")
    device = load_device(path)
    assert (device.name, device.threads, device.measure.rounds, device.measure.warm_up) == ("server", 4, 9, 5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("runtime: onnxruntime\nthread: 1\n", "wrong key thread: Extra inputs"),
        ("runtime: onnxruntime\nmeasure: {round: 1}\n", "wrong key measure.round: Extra inputs"),
        ("runtime: onnxruntime\nthreads: 0\n", "wrong key threads: Input should be greater"),
        (
            "runtime: coreml\n",
            "key runtime: there is no runtime 'coreml', use one of onnxruntime, tflite, adb, table.",
        ),
        ("runtime: onnxruntime\noptions: {cores: 80}\n", "wrong key options.cores: Extra inputs"),
        ("runtime: adb\noptions: {cores: eight}\n", "wrong key options.cores: String should match"),
        (
            "runtime: adb\noptions: {delegate: npu}\n",
            "key options.delegate: Input should be 'cpu', 'gpu' or 'nnapi'",
        ),
        ("runtime: onnxruntime\nmeasure: {interval: 2}\n", "wrong key measure.interval: Input should be less"),
        ("threads: 1\n", "wrong key runtime: Field required"),
        ("runtime: onnxruntime\nname: other\n", "the key name"),
        ("runtime: table\n", "names no predictor"),
        ("runtime: tflite\npredictor: p.json\n", "has a predictor"),
        ("runtime: tflite\nformat: onnx\n", "has a format, which its runtime tflite settles"),
        ("runtime: table\npredictor: p.json\nformat: coreml\n", "wrong key format: Input should be 'tflite' or 'onnx'"),
        ("- runtime\n", "keys and values"),
        ("runtime: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DeviceError) as caught:
        load_device(path)
    assert str(path) in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_device_lists_those_there_are():
    with pytest.raises(DeviceError, match=r"'pixel9'.*cpu, cpu-tflite, pixel4"):
        load_device("pixel9")


def test_a_missing_runtime_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name))
    with pytest.raises(DeviceError, match=r"cpu-tflite needs tflite.*pip install ai-edge-litert"):
        check_runtime(load_device("cpu-tflite"))
    with pytest.raises(DeviceError, match="pip install ai-edge-litert"):
        at_hand(load_device("cpu-tflite"))
    check_runtime(load_device("cpu"))
    assert at_hand(load_device("cpu")) and not at_hand(load_device("pixel4"))
    check_runtime(load_device("pixel4"))


def test_a_table_without_its_file_is_an_error(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("runtime: table\npredictor: lost.json\n")
    with pytest.raises(ArtifactError, match=r"lost\.json does not exist"):
        table_predictor(load_device(path))


def test_a_runtime_of_ones_own_is_a_class_and_a_name(tmp_path, monkeypatch):
    class Stopwatch(InProcessRuntime):
        def load(self, path, device):
            return nullcontext(self)

        def round_ms(self, round_s):
            return 4.25

    monkeypatch.setattr(devices, "RUNTIMES", {"stopwatch": Stopwatch(".onnx", "json", "json")})
    path = tmp_path / "mine.yaml"
    path.write_text("runtime: stopwatch\nthreads: 2\n")
    device = load_device(path)
    (timing,) = measure_files(device, [tmp_path / "model.onnx"]).timings
    assert timing.latency_ms == 4.25 and device.measured and device.suffix == ".onnx"
