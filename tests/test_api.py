"""The Python API, once around on the smallest subnet of a tiny space."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spaceevo import api
from spaceevo.artifacts import Record
from spaceevo.errors import CodeError, DeviceError, ExportError
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.nn.store import write_seqnet, write_supernet

CODE = "tiny-4664-1222"
CLASSES = 10
SPEC = api.image_spec(CLASSES)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Normalised pictures [40, 3, 32, 32], smooth as pictures are, on the levels of the input grid."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").mul(255).round() / 255
    return (pixels - 128 / 255) / 0.5


@pytest.fixture(scope="module")
def supernet() -> api.Supernet:
    return api.build_supernet(CODE, SPEC, seed=1)


@pytest.fixture(scope="module")
def network(supernet: api.Supernet, images: torch.Tensor) -> api.Network:
    """The smallest subnet with BatchNorm statistics, and a last layer whose classes differ."""
    network = api.extract(supernet, supernet.space.smallest, images)
    with torch.no_grad():
        network.stages["logits"][0].convs["linear"].weight.mul_(100)
    return network


def test_every_public_name_exists_and_is_documented() -> None:
    for name in api.__all__:
        assert getattr(api, name).__doc__, name


def test_image_spec_puts_pixels_on_the_grid() -> None:
    levels = (np.arange(256) / 255 - SPEC.mean[0]) / SPEC.std[0]
    steps = levels / SPEC.grid.scale + SPEC.grid.zero_point
    assert np.abs(steps - np.arange(256)).max() < 1e-4
    assert api.image_spec(["cat", "dog"]).classes == ("cat", "dog")


def test_spaces_and_subnets_are_described_by_code_or_value() -> None:
    space = api.parse_space(CODE)
    subnet = api.sample_subnet(space, np.random.default_rng(0))
    assert api.describe(CODE, subnet.code, CLASSES) == api.describe(space, subnet, CLASSES)
    assert api.describe(CODE)["subnets"] == space.count()
    assert api.describe("tiny")["spaces"] == api.count_spaces(space.hyperspace)
    with pytest.raises(CodeError):
        api.describe(space.hyperspace, subnet)


def test_an_extracted_subnet_computes_what_the_supernet_does(supernet: api.Supernet, images: torch.Tensor) -> None:
    subnet = api.sample_subnet(supernet.space, np.random.default_rng(2))
    with torch.no_grad():
        expected = supernet(images, subnet)
        assert torch.equal(api.extract(supernet, subnet.code)(images, api.fp32), expected)
    assert expected.shape == (len(images), CLASSES)


def test_random_weights_depend_on_the_seed_alone(supernet: api.Supernet) -> None:
    def weight(net: api.Supernet) -> torch.Tensor:
        return next(net.parameters())

    assert torch.equal(weight(api.build_supernet(CODE, SPEC, seed=1)), weight(supernet))
    assert not torch.equal(weight(api.build_supernet(CODE, SPEC, seed=2)), weight(supernet))


def test_a_subnet_outside_the_space_is_refused(supernet: api.Supernet) -> None:
    stranger = api.parse_space("tiny-0000-0000").smallest
    with pytest.raises(CodeError):
        api.extract(supernet, stranger)
    with pytest.raises(CodeError):
        api.predict_latency("pixel4", CODE, stranger, CLASSES)


def test_images_set_the_batchnorm_statistics(supernet: api.Supernet, images: torch.Tensor) -> None:
    smallest = supernet.space.smallest
    before, after = api.extract(supernet, smallest), api.extract(supernet, smallest, images)
    assert not torch.equal(before(images, api.fp32), after(images, api.fp32))


def test_artifacts_load_as_they_were_written(
    tmp_path: Path, supernet: api.Supernet, network: api.Network, images: torch.Tensor
) -> None:
    write_supernet(tmp_path / "supernet.safetensors", supernet, SPEC, Record({}))
    write_seqnet(tmp_path / "seqnet.safetensors", network, SPEC, Record({}))
    loaded, spec = api.load_supernet(tmp_path / "supernet.safetensors")
    assert spec == SPEC
    largest = supernet.space.largest
    assert torch.equal(loaded(images[:2], largest), supernet(images[:2], largest))
    assert torch.equal(api.load_seqnet(tmp_path / "seqnet.safetensors")[0](images), network(images))


def test_calibration_brings_int8_close_to_fp32(network: api.Network, images: torch.Tensor) -> None:
    assert not api.is_quantized(network)
    calibrated = api.calibrated(network, images)
    assert api.is_quantized(calibrated) and not api.is_quantized(network)
    with torch.no_grad():
        reference = network(images, api.fp32)
        noise = (calibrated(images) - reference).square().mean() / reference.var()
        untouched = (network(images) - reference).square().mean() / reference.var()
    assert noise < 0.1 < untouched


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_an_exported_file_agrees_and_runs(
    tmp_path: Path, network: api.Network, images: torch.Tensor, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    parity = api.export(network, path, images, SPEC, min_agreement=0.5)  # random weights: classes nearly tie
    assert parity.samples == len(images) and parity.top1_agreement >= 0.5
    resolution = network.subnet.resolution
    inputs = torch.nn.functional.interpolate(images, size=resolution, mode="bicubic", align_corners=False).numpy()
    assert api.load_file(path, threads=1).run(inputs).shape == (len(images), CLASSES)


def test_a_file_that_disagrees_is_refused(tmp_path: Path, network: api.Network, images: torch.Tensor) -> None:
    with pytest.raises(ExportError, match=r"net\.txt"):
        api.export(network, tmp_path / "net.txt", images)
    with pytest.raises(ExportError, match="same class"):
        api.export(network, tmp_path / "net.onnx", images, min_agreement=1.01)
    assert not (tmp_path / "net.txt").exists() and not (tmp_path / "net.onnx").exists()


def test_a_graph_becomes_tflite_bytes_that_can_be_timed(tmp_path: Path, network: api.Network) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(api.to_tflite(api.to_int8_graph(network)))
    assert api.measure_latency(path, "cpu-tflite").latency_ms > 0


def test_latency_is_predicted_from_a_name_a_file_or_a_predictor(tmp_path: Path) -> None:
    space = api.parse_space(CODE)
    predictor = table_predictor(load_device("pixel4"))
    write_predictor(tmp_path / "latency_predictor.json", predictor, Record({}))
    expected = predictor.predict_subnet(space, space.smallest, CLASSES)
    for device in ("pixel4", tmp_path / "latency_predictor.json", predictor):
        assert api.predict_latency(device, CODE, space.smallest.code, CLASSES).latency_ms == pytest.approx(
            expected.latency_ms
        )
    with pytest.raises(DeviceError, match="cpu"):
        api.predict_latency("cpu", CODE, space.smallest, CLASSES)


def test_a_network_its_graph_and_its_file_are_measured(tmp_path: Path, network: api.Network) -> None:
    graph = api.to_int8_graph(network, SPEC)
    (tmp_path / "net.onnx").write_bytes(api.to_onnx(graph))
    for model in (network, graph, tmp_path / "net.onnx"):
        timing = api.measure_latency(model)
        assert timing.latency_ms > 0 and timing.rounds == load_device("cpu").measure.rounds
    with pytest.raises(DeviceError, match="pixel4"):
        api.measure_latency(network, "pixel4")


def test_the_description_goes_into_the_file(network: api.Network) -> None:
    description = api.to_int8_graph(network, SPEC).description
    assert description["class_names"] == list(SPEC.classes)
    assert json.loads(json.dumps(description)) == description


def test_names_stand_for_codes() -> None:
    space, subnet = api.parse_network("SEQnet@pixel4-A1")
    by_code = api.predict_latency("pixel4", space.code, subnet.code, 1000)
    assert api.predict_latency("pixel4", "spaceevo@pixel4", "SEQnet@pixel4-A1", 1000) == by_code
    assert api.describe("SEQnet@pixel4-A1")["subnet"] == subnet.code
    supernet = api.build_supernet("SEQnet@pixel4-A1", api.image_spec(2))
    assert api.extract(supernet, "SEQnet@pixel4-A1").subnet == subnet
    with pytest.raises(CodeError, match="not of mobilew-122222-155400"):
        api.extract(supernet, "SEQnet@vnni-A1")
