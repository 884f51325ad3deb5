from dataclasses import replace

import interpreter
import numpy as np
import pytest

from spaceevo.artifacts import Record, read_header
from spaceevo.errors import ArtifactError, ExportError
from spaceevo.export import verify
from spaceevo.export.verify import (
    Verification,
    export_verified,
    read_verification,
    rejected_path,
    write_verification,
)
from spaceevo.quant.graph import ConvNode

SUFFIXES = (".onnx", ".tflite")
CASE = "tiny_1"
SHOWN = 4  # inputs of which the sample holds all tensors


def expectation(graph, x, tensors):
    """The sample with these results."""
    logits = interpreter.real(tensors[graph.output], graph.grids[graph.output]).reshape(len(x), -1).astype(np.float32)
    return Verification(x, logits, {name: q[:SHOWN] for name, q in tensors.items()})


@pytest.fixture(scope="module")
def sample(exported):
    """What the interpreter makes of those inputs with the clearest class: random networks are unsure of the others."""
    graph, x = exported[CASE].graph, exported[CASE].inputs
    tensors = interpreter.run(graph, x)
    best, second = np.sort(tensors[graph.output].astype(int).reshape(len(x), -1), axis=1)[:, :-3:-1].T
    clear = np.argsort(second - best)[: len(x) // 4]
    return expectation(graph, x[clear], {name: q[clear] for name, q in tensors.items()})


@pytest.fixture
def prebuilt(exported, monkeypatch):
    """TFLite files of the untampered graph in the place of conversions, which need a process without torch."""

    def to_tflite(graph, outputs=None):
        return exported[CASE].file(".debug.tflite" if outputs else ".tflite").read_bytes()

    monkeypatch.setattr(verify, "to_tflite", to_tflite)


def tampered(graph, name):
    """The graph with every weight of one convolution mirrored."""
    nodes = [replace(n, weight=-n.weight) if n.output == name else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def inner_conv(graph):
    """A convolution half-way through the network."""
    names = [node.output for node in graph.nodes if isinstance(node, ConvNode)]
    return names[len(names) // 2]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_good_file_is_delivered(exported, sample, prebuilt, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    parity = export_verified(exported[CASE].graph, sample, path)
    assert parity.samples == len(sample.inputs)
    assert parity.top1_agreement >= 0.995
    assert 0 <= parity.mean_abs_lsb <= parity.max_abs_lsb
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == exported[CASE].file(suffix).read_bytes()
    assert verify.verify(path, exported[CASE].graph, sample) == parity


def test_tampered_graph_is_rejected_and_its_tensor_named(exported, sample, tmp_path):
    graph = exported[CASE].graph
    name = inner_conv(graph)
    path = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match=rf"first tensor to diverge is {name}: .* kept as .*net\.rejected\.onnx"):
        export_verified(tampered(graph, name), sample, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.rejected.onnx"]
    assert rejected_path(path).exists()


def test_wrong_expectation_is_named_in_tflite(exported, sample, prebuilt, tmp_path):
    """The network that was trained is another one from some tensor on."""
    graph = exported[CASE].graph
    name = inner_conv(graph)
    expected = expectation(graph, sample.inputs, interpreter.run(tampered(graph, name), sample.inputs))
    with pytest.raises(ExportError, match=rf"first tensor to diverge is {name}: .* kept as .*net\.rejected\.tflite"):
        export_verified(graph, expected, tmp_path / "net.tflite")
    assert [file.name for file in tmp_path.iterdir()] == ["net.rejected.tflite"]


def test_file_of_another_graph_is_rejected(exported, sample, tmp_path):
    graph = exported[CASE].graph
    path = tmp_path / "net.onnx"
    path.write_bytes(verify.to_onnx(tampered(graph, inner_conv(graph))))
    with pytest.raises(ExportError, match="differs from a fresh export of the graph"):
        verify.verify(path, graph, sample)
    assert [file.name for file in tmp_path.iterdir()] == ["net.rejected.onnx"]


def test_float_kernel_is_rejected(exported, sample, prebuilt, monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "float_kernels", lambda model: ["ADD → sum"])
    with pytest.raises(ExportError, match=r"float kernels \(ADD → sum\)"):
        export_verified(exported[CASE].graph, sample, tmp_path / "net.tflite")
    assert [file.name for file in tmp_path.iterdir()] == ["net.rejected.tflite"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_file_is_rejected(exported, sample, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(exported[CASE].file(suffix).read_bytes()[:1000])
    with pytest.raises(ExportError, match="cannot be loaded"):
        verify.verify(path, exported[CASE].graph, sample)
    assert not path.exists()


def test_failed_export_keeps_an_earlier_file(exported, sample, tmp_path):
    path = tmp_path / "net.onnx"
    export_verified(exported[CASE].graph, sample, path)
    good = path.read_bytes()
    with pytest.raises(ExportError):
        export_verified(tampered(exported[CASE].graph, inner_conv(exported[CASE].graph)), sample, path)
    assert path.read_bytes() == good


def test_sample_without_tensors_still_rejects(exported, sample, tmp_path):
    graph = tampered(exported[CASE].graph, inner_conv(exported[CASE].graph))
    with pytest.raises(ExportError, match="holds no tensors"):
        export_verified(graph, replace(sample, tensors={}), tmp_path / "net.onnx")


def test_other_suffixes_are_refused(exported, sample, tmp_path):
    with pytest.raises(ExportError, match=r"neither a \.onnx nor a \.tflite"):
        export_verified(exported[CASE].graph, sample, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_sample_round_trip(sample, tmp_path):
    path = tmp_path / "sample.safetensors"
    write_verification(path, sample, Record({"seed": 1}))
    assert read_header(path)["kind"] == "verification"
    back = read_verification(path)
    np.testing.assert_array_equal(back.inputs, sample.inputs)
    np.testing.assert_array_equal(back.logits, sample.logits)
    assert back.tensors.keys() == sample.tensors.keys()
    for name, q in sample.tensors.items():
        assert back.tensors[name].dtype == np.uint8
        np.testing.assert_array_equal(back.tensors[name], q)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_verification(tmp_path / "none.safetensors")
