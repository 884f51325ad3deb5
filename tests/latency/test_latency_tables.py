"""The shipped predictors against the published tables they were fitted to."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.features import kernels
from spaceevo.latency.regression import error_figures
from spaceevo.nn.network import subnet_plan
from spaceevo.space import BlockChoice, Space, load_hyperspace, parse_space

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
HYPERSPACES = {"pixel4": "mobilew", "vnni": "onnxw"}
EVERY = 40  # lines

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"the published tables are not at {REFERENCE}")


def table_lines(hyperspace_name):
    """Stage number, block type index, input channels and height, blocks, and milliseconds of some of the lines."""
    for file in sorted((REFERENCE / "block_lut" / hyperspace_name).glob("*.csv")):
        stage, block_type, _ = (int(n) for n in re.findall(r"\d+", file.stem))
        for line in file.read_text().split()[::EVERY]:
            blocks, shape, *_, latency_ms = line.split(",")
            parts = [block.split("#") for block in blocks.split("_")]
            choice = tuple(BlockChoice(int(k), int(w), 0.0 if e == "None" else float(e)) for k, w, e in parts)
            yield stage, block_type, *(int(n) for n in shape.split("x")[1:3]), choice, float(latency_ms)


@pytest.mark.parametrize("device", HYPERSPACES)
def test_the_table_is_predicted_as_well_as_stated(device):
    predictor = table_predictor(load_device(device))
    hyperspace = load_hyperspace(HYPERSPACES[device])
    predicted, published = [], []
    for stage_number, type_index, in_channels, height, choice, latency_ms in table_lines(hyperspace.name):
        stage, block_type = hyperspace.searched_stages[stage_number - 1], hyperspace.block_types[type_index]
        prediction = predictor.stage_ms(block_type, in_channels, choice, stage.stride, height)
        assert not prediction.extrapolated
        predicted.append(prediction.latency_ms)
        published.append(latency_ms)
    figures = error_figures(np.array(predicted), np.array(published))
    stated = predictor.errors["stages_with_a_held_out_block"]
    assert figures["models"] > 1000
    for key in ("within_5_percent", "within_10_percent"):
        assert figures[key] == pytest.approx(stated[key], abs=0.03)
    assert figures["within_10_percent"] > {"pixel4": 0.98, "vnni": 0.9}[device]


@pytest.mark.parametrize(
    ("name", "device", "published_ms"),
    [
        ("SEQnet@pixel4-A0", "pixel4", 5.9),
        ("SEQnet@pixel4-A1", "pixel4", 14.7),
        ("SEQnet@vnni-A0", "vnni", 4.4),
        ("SEQnet@vnni-A1", "vnni", 8.8),
        ("SEQnet@vnni-A4", "vnni", 24.4),
    ],
)
def test_published_networks_are_predicted_within_a_fifth(name, device, published_ms):
    codes = json.loads((REFERENCE / "published_codes.json").read_text())[name]
    space = parse_space(codes["space"])
    prediction = table_predictor(load_device(device)).predict_subnet(space, space.subnet(codes["subnet"]), 1000)
    assert not prediction.extrapolated
    assert prediction.latency_ms == pytest.approx(published_ms, rel=0.2)


@pytest.mark.parametrize("device", sorted(HYPERSPACES))
@pytest.mark.parametrize("name", ["tiny", "mobilew", "onnxw"])
def test_no_activation_of_a_shipped_hyperspace_is_free(device, name):
    """A search would seek out what costs nothing."""
    predictor, hyperspace = table_predictor(load_device(device)), load_hyperspace(name)
    for digit in range(len(hyperspace.block_types)):
        searched = len(hyperspace.searched_stages)
        space = Space(hyperspace, (digit,) * searched, (0,) * searched)
        subnet = space.largest
        for kernel in kernels(subnet_plan(space, subnet, 10), subnet.resolution):
            if kernel.kind in ("swish", "hswish"):
                assert predictor._kernel(kernel).latency_ms > 0, kernel
