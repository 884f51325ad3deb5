"""The study of a device: what is timed, what follows from known latencies, and that a cut one goes on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spaceevo.artifacts import Record
from spaceevo.config import StudyParams
from spaceevo.latency import files
from spaceevo.latency.checkpoint import read_checkpoint, write_checkpoint
from spaceevo.latency.devices import MeasureOptions, load_device
from spaceevo.latency.measure import Measurement, Timing
from spaceevo.latency.study import measuring
from spaceevo.latency.study.findings import Findings
from spaceevo.latency.study.measuring import study
from spaceevo.latency.study.units import REPEATS, WIDTH_LAYERS, block_names, chains, quantities, units, width_unit
from spaceevo.nn.plan import INPUT
from spaceevo.space import load_hyperspace

PARAMS = StudyParams(channels=16, height=14, steps={1: (16, 20), 4: (16, 32), 8: (16, 64)}, time_limit_s=60)
TILE = 8  # of the simulated device
CARRIED = {"+ addition": 0.5, "+ gate": 0.75, "+ pooling + gate": 1.0, "+ SE": 2.0, "+ hswish": 1.5}
SLOWER_IN_FP32 = 3.0


def unit_ms(unit, channels, precision):
    """A convolution takes the time of the next multiple of the tile; what comes with it takes as much in FP32."""
    if unit.startswith("width"):
        ms = (-(-channels // TILE) * TILE) ** 2 / 1000
        return ms if precision == "int8" else SLOWER_IN_FP32 * channels**2 / 1000
    extra = next((ms for name, ms in CARRIED.items() if unit == f"conv 1×1 {name}"), 0.0)
    return extra + (1.0 if precision == "int8" else SLOWER_IN_FP32)


def latency_ms(chain):
    ends = 0.3 + chain.unit.channels / 100
    return ends + chain.repeats * unit_ms(chain.unit.name, chain.unit.channels, chain.precision)


def measured(found, spread=0.0):
    rows = []
    for chain in found:
        ms = latency_ms(chain)
        row = dict(zip(measuring.KEY, chain.key, strict=True)) | {"macs": chain.macs}
        rows.append(row | {"latency_ms": ms, "spread_ms": spread * ms, "rounds": 9})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def findings():
    tiny = load_hyperspace("tiny")
    return Findings(measured(chains(tiny, PARAMS)), list(PARAMS.steps), quantities(tiny))


@pytest.mark.parametrize("name", ["tiny", "mobilew", "onnxw"])
def test_chains_keep_their_shape_and_repeat_their_work(name):
    hyperspace = load_hyperspace(name)
    for unit in units(hyperspace, 16, 14):
        one, several = unit.build(1), unit.build(REPEATS)
        for plan in (one, several):
            shapes = plan.shapes(unit.height)
            assert shapes[plan.output] == shapes[INPUT], unit.name
        convolutions = [op for op in several.ops if hasattr(op, "weight")]
        assert len(convolutions) == REPEATS * len([op for op in one.ops if hasattr(op, "weight")]) > 0


def test_every_block_type_has_a_row_of_its_own(tiny):
    named = [quantity.name for quantity in quantities(tiny) if quantity.group == "blocks"]
    assert named == block_names(tiny) and len(set(named)) == len(tiny.block_types)
    assert {q.unit for q in quantities(tiny)} | {q.less for q in quantities(tiny)} - {None} <= {
        unit.name for unit in units(tiny, 16, 14)
    }


def test_block_types_that_differ_in_little_are_told_apart(tiny):
    kind = tiny.block_types[1]
    other = replace(kind, activation="swish")
    twins = replace(tiny, block_types=(kind, other, other))
    assert block_names(twins) == ["mobilenetv2_res, relu6", "mobilenetv2_res, 1", "mobilenetv2_res, 2"]


def test_each_chain_is_timed_once_and_coarse_widths_come_first(tiny):
    found = chains(tiny, PARAMS)
    assert len({chain.key for chain in found}) == len(found)
    widths = list(dict.fromkeys(c.unit.channels for c in found if c.unit.name == width_unit(WIDTH_LAYERS[0])))
    assert set(widths) == {16, 17, 18, 19, 20, 24, 28, 32, 40, 48, 56, 64}
    assert set(widths[:3]) == {16, 40, 64} and set(widths[-3:]) == {17, 18, 19}


def test_a_unit_is_what_a_chain_has_more_and_the_rest_what_it_adds(findings):
    rows = {(row.quantity.group, row.quantity.name): row for row in findings.rows}
    conv = rows["operators", "convolution 1×1"]
    assert (conv.int8.ms, conv.fp32.ms) == pytest.approx((1.0, SLOWER_IN_FP32)) and conv.speedup == pytest.approx(3.0)
    assert rows["operators", "residual addition"].int8.ms == pytest.approx(0.5)
    assert rows["operators", "channel gate"].int8.ms == pytest.approx(0.75)
    assert rows["operators", "global pooling"].int8.ms == pytest.approx(0.25)
    assert rows["operators", "squeeze-and-excitation"].speedup == pytest.approx(1.0)
    assert rows["activations", "hswish"].speedup == pytest.approx(4.5 / 2.5)


def test_what_noise_hides_has_no_speedup(tiny):
    noisy = Findings(measured(chains(tiny, PARAMS), spread=0.2), list(PARAMS.steps), quantities(tiny))
    by_name = {row.quantity.name: row for row in noisy.group("operators")}
    assert by_name["global pooling"].speedup is None and by_name["convolution 3×3"].speedup == pytest.approx(3.0)


def test_ends_are_taken_off_widths(findings):
    for layer in WIDTH_LAYERS:
        for cost in findings.widths(layer, "int8"):
            assert cost.ms == pytest.approx(unit_ms("width", cost.width, "int8"), rel=1e-6)


def test_the_steps_of_a_staircase_are_found(findings):
    """Multiples of the tile cost least per MAC; widths in between take as long as the next of them."""
    gains = {gain.step: gain for gain in findings.gains if (gain.layer, gain.precision) == ("convolution 1×1", "int8")}
    assert gains[8].saving > 0.1 and gains[8].wasteful == (20, 28) and gains[8].compared == 2
    assert gains[4].wasteful == (17, 18, 19) and gains[4].finer == 1
    assert findings.recommended_step("convolution 1×1", "int8") == 8
    assert findings.recommended_step("convolution 1×1", "fp32") == 1  # proportional to its work, whatever the width


def test_a_study_of_few_rows_says_what_it_can(tiny):
    first = chains(tiny, PARAMS)[:4]
    few = Findings(measured(first), list(PARAMS.steps), quantities(tiny))
    assert [row.quantity.name for row in few.rows] == ["convolution 1×1", "none"]
    assert few.gains == [] and few.widths(WIDTH_LAYERS[0], "int8") == []


class Simulated:
    """A device of known latencies; each model takes a second to export."""

    def __init__(self, monkeypatch):
        self.now, self.slowness, self.exported, self.dies_at = 0.0, 1.0, [], None
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measuring, "BATCH", 24)
        monkeypatch.setattr(measuring, "_sketch", lambda chain, seed: chain)
        monkeypatch.setattr(files, "write_sketch", self.write)
        monkeypatch.setattr(measuring, "measure_files", self.measure)

    def write(self, chain, device, stem):
        if stem.name == "reference":
            return stem
        self.now += 1.0
        self.exported.append(chain)
        return chain

    def measure(self, device, paths, *, options, reference, budget_s):
        if self.dies_at is not None and len(self.exported) >= self.dies_at:
            raise KeyboardInterrupt
        self.slowness += 0.5  # from batch to batch
        timings = [self.timing(latency_ms(chain)) for chain in paths]
        return Measurement(timings, self.timing(1.0), 0.01)

    def timing(self, ms):
        ms *= self.slowness
        return Timing(ms, 0.99 * ms, 1.01 * ms, 0.01 * ms, 11, 0)


def test_a_study_that_was_cut_short_goes_on(tiny, monkeypatch, tmp_path):
    device = load_device("cpu")
    simulated, record = Simulated(monkeypatch), Record({"study": PARAMS.model_dump(mode="json")}, 0)
    path = tmp_path / "checkpoint.parquet"

    def save(table):
        write_checkpoint(path, table, record)

    whole = study(device, tiny, PARAMS, seed=0, budget_s=1e6)
    simulated.exported.clear()
    simulated.slowness, simulated.dies_at = 1.0, 60
    with pytest.raises(KeyboardInterrupt):
        study(device, tiny, PARAMS, seed=0, budget_s=1e6, save=save)
    earlier = read_checkpoint(path, record)
    assert earlier is not None and len(earlier) == 48
    simulated.exported.clear()
    simulated.dies_at = None
    rest = study(device, tiny, PARAMS, seed=0, budget_s=1e6, earlier=earlier)
    assert len(simulated.exported) == len(whole) - 48
    assert [tuple(row) for row in rest[list(measuring.KEY)].to_numpy()] == [c.key for c in chains(tiny, PARAMS)]
    np.testing.assert_allclose(rest["latency_ms"], whole["latency_ms"])  # all at one speed, whatever the batches' were
    assert read_checkpoint(path, Record({"study": {}}, 0)) is None


def test_where_time_is_short_the_finest_widths_are_left_out(tiny, monkeypatch):
    Simulated(monkeypatch)
    wanted = chains(tiny, PARAMS)
    table = study(load_device("cpu"), tiny, PARAMS, seed=0, budget_s=150.0)
    assert 100 < len(table) <= 150
    assert [tuple(row) for row in table[list(measuring.KEY)].to_numpy()] == [c.key for c in wanted[: len(table)]]


def test_in_onnxruntime(tiny, monkeypatch):
    pytest.importorskip("onnxruntime")
    device = load_device("cpu").model_copy(update={"measure": MeasureOptions(warm_up=1, rounds=2, round_s=0.001)})
    monkeypatch.setattr(measuring, "ROUNDS", 2)
    params = StudyParams(channels=16, height=7, steps={8: (16, 24)}, time_limit_s=60)
    table = study(device, tiny, params, seed=0, budget_s=600)
    assert len(table) == len(chains(tiny, params)) and (table["latency_ms"] > 0).all()
    findings = Findings(table, [8], quantities(tiny))
    assert len(findings.rows) == len(quantities(tiny)) and len(findings.widths(WIDTH_LAYERS[2], "fp32")) == 2


@pytest.mark.parametrize("steps", [{}, {8: (33, 39)}, {4: (40, 32)}], ids=["none", "no multiple in range", "falling"])
def test_steps_without_widths_are_refused(steps):
    with pytest.raises(ValueError, match=r"step|multiple"):
        StudyParams(steps=steps)
