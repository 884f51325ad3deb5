"""The examples of docs/your-own.md and README.md do what is said of them."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from docs.pages import ROOT, blocks, yaml_example

from spaceevo import api
from spaceevo.artifacts import Record
from spaceevo.config import parse_params
from spaceevo.data.splits import SplitInfo, save_array_split
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.nn import blocks as block_types
from spaceevo.nn import teacher as teachers
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import write_supernet

PAGE = "docs/your-own.md"
BLOCK, TEACHER = blocks(PAGE, "python")
OVERLAYS = [text for text in blocks(PAGE, "yaml") if text.startswith("# mine.yaml\n")]
DEVICES = [text for text in blocks(PAGE, "yaml") if text.startswith("# devices/server.yaml\n")]


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Key by key, as Snakemake lays one configuration over another."""
    nested = {key: merged(base[key], value) for key, value in over.items() if isinstance(base.get(key), dict)}
    return {**base, **over, **nested}


def defined(code: str, module: ModuleType) -> type:
    """The class that `code` defines in the place where the page puts it."""
    names = dict(vars(module))
    before = set(names)
    exec(compile(code, PAGE, "exec", dont_inherit=True), names)
    (name,) = set(names) - before
    found: type = names[name]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_of_the_parameters_are_valid(overlay: str) -> None:
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert parse_params(merged(base, yaml.safe_load(overlay))) != parse_params(base)


def test_devices_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices").mkdir()
    measured, table = DEVICES
    Path("devices/server.yaml").write_text(measured)
    device = load_device("server")
    assert device.measured and device.threads == 4
    write_predictor("devices/server.json", table_predictor(load_device("pixel4")), Record({}))
    Path("devices/server.yaml").write_text(table)
    device = load_device("server")
    assert not device.measured and table_predictor(device).kinds


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the hyperspace of the page."""
    monkeypatch.chdir(tmp_path)
    Path("hyperspaces").mkdir()
    Path("hyperspaces/little.yaml").write_text(yaml_example(PAGE, "hyperspaces/little.yaml"))
    return tmp_path


@pytest.mark.usefixtures("little")
def test_the_hyperspace_holds_its_teacher() -> None:
    (overlay,) = [text for text in OVERLAYS if "hyperspace:" in text]
    over = yaml.safe_load(overlay)
    hyperspace = api.load_hyperspace(over["hyperspace"])
    grid = api.image_spec(4).grid
    teacher = teachers.build_teacher(over["teacher"]["model"], hyperspace, 4, grid)
    x = torch.zeros(1, 3, hyperspace.resolutions[-1], hyperspace.resolutions[-1])
    assert [name for name, _ in teacher.features(x)] == [stage.name for stage in hyperspace.body]


def test_the_block_type_is_all_that_a_supernet_needs(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = [text for text in blocks(PAGE, "yaml") if text.startswith("block_types:")]
    (declared,) = yaml.safe_load(entry)["block_types"]
    assert f'"{declared["block"]}": SeparableRes' in (ROOT / PAGE).read_text()
    monkeypatch.setitem(block_types.BLOCKS, declared["block"], defined(BLOCK, block_types))
    path = little / "hyperspaces" / "own.yaml"
    hyperspace = yaml.safe_load((little / "hyperspaces" / "little.yaml").read_text())
    hyperspace["block_types"].append(declared)
    path.write_text(yaml.safe_dump(hyperspace))

    spec = api.image_spec(4)
    supernet = api.build_supernet("own-22-11", spec)
    subnet = api.sample_subnet(supernet.space, np.random.default_rng(0))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = api.extract(supernet, subnet)
    with torch.no_grad():
        assert torch.equal(supernet(images, subnet), network(images, api.fp32))
    graph = api.to_int8_graph(api.calibrated(network, images), spec)
    assert any(node.output.endswith("point_conv") for node in graph.nodes)
    assert api.to_onnx(graph)
    assert api.predict_latency("pixel4", supernet.space, subnet, 4).latency_ms > 0


@pytest.mark.parametrize("name", ["tiny", "mobilew"])
def test_the_teacher_fits_every_hyperspace(name: str) -> None:
    hyperspace = api.load_hyperspace(name)
    teacher = defined(TEACHER, teachers)(hyperspace, 4)
    initialise(teacher, torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = dict(teacher.features(x))
    assert list(features) == [stage.name for stage in hyperspace.body]
    for stage in hyperspace.body:
        size = (hyperspace.map_size(stage.name, 64) - 1) // stage.stride + 1
        assert features[stage.name].shape == (2, teacher.widths[stage.name], size, size)
    assert teacher(x).shape == (2, 4)


def test_the_readme_goes_on_from_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a supernet of random weights, with a last layer whose classes differ."""
    monkeypatch.chdir(tmp_path)
    spec = api.image_spec(10)
    supernet = api.build_supernet("tiny-1313-0000", spec, seed=1)
    with torch.no_grad():
        supernet.stages["logits"].get_parameter("blocks.0.convs.linear.weight").mul_(100)
    write_supernet("results/pixel4/supernet.safetensors", supernet, spec, Record({}))
    rng = np.random.default_rng(0)
    tints = rng.integers(0, 200, (64, 1, 1, 3))
    pixels = (tints + rng.integers(0, 55, (64, 32, 32, 3))).astype(np.uint8)
    info = SplitInfo(spec.classes, spec.mean, spec.std)
    labels = np.arange(64, dtype=np.int64) % 10
    save_array_split("results/data/clutter/train.safetensors", pixels, labels, info, Record({}))
    (code,) = blocks("README.md", "python")
    exec(compile(code.replace("0.95", "0.5"), "README.md", "exec"), {})
    macs, latency_ms, found = capsys.readouterr().out.splitlines()
    assert int(macs) > 0 and float(latency_ms) > 0 and "top1_agreement" in found
    assert Path("net.onnx").is_file()
