"""Predictions: additive, rising, remembered, written and read; and a warning where they leave the fitted ranges."""

import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest

from spaceevo.artifacts import Record, write_json
from spaceevo.errors import ArtifactError
from spaceevo.latency.devices import device_predictor, load_device, table_predictor
from spaceevo.latency.fit import fit_predictor
from spaceevo.latency.kernels import Kernel
from spaceevo.latency.predictor import PREDICTOR_KIND, read_predictor, write_predictor
from spaceevo.nn.network import subnet_plan
from spaceevo.space import load_hyperspace, parse_space, sample_space, sample_subnet

NUM_CLASSES = 10


@pytest.fixture(scope="module", params=["truth", "fitted", "pixel4", "vnni"])
def predictor_and_hyperspace(request, truth, true_profile, tiny):
    match request.param:
        case "truth":
            return truth, tiny
        case "fitted":
            return fit_predictor(true_profile, tiny, "truth"), tiny
    hyperspace = load_hyperspace({"pixel4": "mobilew", "vnni": "onnxw"}[request.param])
    return table_predictor(load_device(request.param)), hyperspace


def test_a_subnet_is_the_sum_of_its_kernels(predictor_and_hyperspace):
    predictor, hyperspace = predictor_and_hyperspace
    rng = np.random.default_rng(0)
    for _ in range(10):
        space = sample_space(hyperspace, rng)
        subnet = sample_subnet(space, rng)
        whole = predictor.predict(subnet_plan(space, subnet, NUM_CLASSES), subnet.resolution)
        parts = predictor.predict_subnet(space, subnet, NUM_CLASSES)
        assert parts.latency_ms == pytest.approx(whole.latency_ms, rel=1e-9)
        assert parts.extrapolated == whole.extrapolated


def test_a_stage_is_the_sum_of_its_blocks(predictor_and_hyperspace):
    predictor, hyperspace = predictor_and_hyperspace
    rng = np.random.default_rng(1)
    space = sample_space(hyperspace, rng)
    options = space.options[-1]
    choice = sample_subnet(space, rng).stages[-1]
    stage = predictor.stage_ms(options.block_type, 64, choice, 2, 14)
    blocks = [predictor.block_ms(options.block_type, 64, choice[0], 2, 14)]
    for before, block in pairwise(choice):
        blocks.append(predictor.block_ms(options.block_type, before.width, block, 1, 7))
    assert stage.latency_ms == pytest.approx(sum(block.latency_ms for block in blocks))


def test_a_wider_or_larger_subnet_is_never_faster(predictor_and_hyperspace):
    predictor, hyperspace = predictor_and_hyperspace
    rng = np.random.default_rng(2)
    for _ in range(10):
        space = sample_space(hyperspace, rng)
        subnet = sample_subnet(space, rng)
        resolutions = [
            predictor.predict_subnet(space, replace(subnet, resolution=r), NUM_CLASSES).latency_ms
            for r in hyperspace.resolutions
        ]
        assert resolutions == sorted(resolutions)
        options = space.options[-1]
        stages = [
            predictor.stage_ms(options.block_type, 4, (subnet.stages[-1][0]._replace(width=width),), 2, 14).latency_ms
            for width in options.stage.widths
        ]
        assert stages == sorted(stages) and stages[0] < stages[-1]


def test_written_and_read_it_is_the_same(tmp_path, predictor_and_hyperspace):
    predictor, _ = predictor_and_hyperspace
    write_predictor(tmp_path / "p.json", predictor, Record({}, 0))
    assert read_predictor(tmp_path / "p.json") == predictor


def test_extrapolation_is_told(true_profile, tiny):
    predictor = fit_predictor(true_profile, tiny, "truth")
    space = parse_space("tiny-0123-0000")
    inside = predictor.predict_subnet(space, space.largest, NUM_CLASSES)
    assert not inside.extrapolated
    higher = replace(space.largest, resolution=space.largest.resolution * 2)
    assert predictor.predict_subnet(space, higher, NUM_CLASSES).extrapolated
    assert predictor.predict_subnet(space, space.largest, 1000).extrapolated
    mobilew = parse_space("mobilew-122222-155400")
    assert predictor.predict_subnet(mobilew, mobilew.smallest, NUM_CLASSES).extrapolated


def test_a_kind_never_seen_is_extrapolated(truth, tiny):
    without = replace(truth, kinds={kind: model for kind, model in truth.kinds.items() if kind != "gate"})
    space = parse_space("tiny-2222-0000")
    full, less = (p.predict_subnet(space, space.largest, NUM_CLASSES) for p in (truth, without))
    assert less.extrapolated and not full.extrapolated and less.latency_ms < full.latency_ms


def changed(path, truth, change):
    """A predictor's file whose content was changed before it was written."""
    content = asdict(truth)
    change(content["kinds"]["gate"])
    write_json(path, PREDICTOR_KIND, content, Record({}, 0))
    return path


def test_a_file_with_an_unknown_feature_is_refused(tmp_path, truth):
    path = changed(tmp_path / "p.json", truth, lambda gate: gate["coefficients"].update(moon_phase=1.0))
    with pytest.raises(ArtifactError, match=r"moon_phase.*gate"):
        read_predictor(path)


def test_a_file_without_a_key_is_refused(tmp_path, truth):
    path = changed(tmp_path / "p.json", truth, lambda gate: gate.pop("height"))
    with pytest.raises(ArtifactError, match="not a valid latency predictor"):
        read_predictor(path)


def test_no_torch_is_imported():
    modules = ("predictor", "devices", "measure", "profile", "fit", "budgets")
    code = f"import sys, {', '.join(f'spaceevo.latency.{m}' for m in modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("device", ["pixel4", "vnni"])
def test_far_beyond_the_fit_time_grows_with_the_work(device):
    kinds = device_predictor(device).kinds
    known, far, farther = kinds["dense"].latency_ms([Kernel("dense", 1920, n * 1000, 1) for n in (1, 100, 1000)])
    assert far > 10 * known and farther == pytest.approx(10 * far, rel=0.2)
    wide = [Kernel("conv", 4000 * n, 4000, 14) for n in (1, 10)]
    near, far = kinds["conv1_s1"].latency_ms(wide)
    assert 8 * near < far < 12 * near
