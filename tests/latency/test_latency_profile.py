"""Profiles: batches cover the hyperspace, a cut one goes on, and a small one goes through onnxruntime."""

import collections
import itertools
from contextlib import nullcontext

import pandas as pd
import pytest

from spaceevo.artifacts import Record, read_table, write_table
from spaceevo.errors import DeviceError
from spaceevo.latency import files
from spaceevo.latency import profile as profiling
from spaceevo.latency.checkpoint import read_checkpoint, write_checkpoint
from spaceevo.latency.devices import MeasureOptions, load_device
from spaceevo.latency.fit import fit_predictor, row_plan
from spaceevo.latency.profile import PROFILE_KIND, Limits, profile, profile_figures
from spaceevo.latency.runtimes import InProcessRuntime
from spaceevo.latency.samples import ProfileCounts, ProfiledBlock, ProfiledNet, sample_models
from spaceevo.space import load_hyperspace

COUNTS = ProfileCounts(blocks_per_type=2, nets=30, test_nets=10)


@pytest.mark.parametrize("name", ["tiny", "mobilew", "onnxw"])
def test_every_stage_and_block_type_is_sampled(name):
    hyperspace = load_hyperspace(name)
    models = sample_models(hyperspace, 10, COUNTS, seed=0)
    blocks = collections.Counter((m.stage, m.block_type) for m in models if isinstance(m, ProfiledBlock))
    for stage in hyperspace.stages:
        for block_type in hyperspace.block_types if stage.searched else (stage.block_type,):
            assert blocks[stage.name, block_type] == 2
    for model in models:
        model.plan().shapes(model.height)


def test_networks_to_test_on_are_not_fitted_on(tiny):
    nets = [m for m in sample_models(tiny, 10, COUNTS, seed=0) if isinstance(m, ProfiledNet)]
    splits = collections.Counter(net.split for net in nets)
    assert splits == {"fit": 30, "test": 10}
    assert len({net.subnet for net in nets}) == 40


def test_the_same_seed_samples_the_same_models(tiny):
    first, again, other = (sample_models(tiny, 10, COUNTS, seed) for seed in (3, 3, 4))
    assert first == again and first != other


def test_a_beginning_of_the_list_holds_all_sorts(tiny):
    beginning = sample_models(tiny, 10, ProfileCounts(3, 100, 50), seed=0)[:60]
    sorts = collections.Counter((model.row()["role"], model.row()["split"]) for model in beginning)
    assert min(sorts["net", "fit"], sorts["net", "test"], sorts["block", "fit"]) >= 8


def test_heights_follow_the_network(tiny):
    blocks = [m for m in sample_models(tiny, 10, ProfileCounts(5, 0, 0), seed=0) if isinstance(m, ProfiledBlock)]
    assert {b.height for b in blocks if b.stage == "first_conv"} <= set(tiny.resolutions)
    assert {b.height for b in blocks if b.stage == "logits"} == {1}
    assert {b.height * 8 for b in blocks if b.stage == "stage4" and b.stride == 2} <= set(tiny.resolutions)


def test_a_hyperspace_with_few_networks_gives_fewer(tiny):
    assert 0 < len(sample_models(tiny, 10, ProfileCounts(0, 5, 3), seed=0)) == 8


def test_end_to_end_with_onnxruntime(tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    device = load_device("cpu").model_copy(update={"measure": MeasureOptions(warm_up=1, rounds=2, round_s=0.002)})
    seen = set()
    table = profile(
        device,
        tiny,
        10,
        counts=ProfileCounts(blocks_per_type=1, nets=30, test_nets=20),
        limits=Limits(60),
        seed=0,
        progress=lambda what, done, total: seen.add((what, done == total)),
    )
    assert (table["latency_ms"] > 0).all() and (table["rounds"] == 2).all()
    assert table.groupby(["role", "split"]).size().to_dict() == {
        ("block", "fit"): 45,
        ("net", "fit"): 30,
        ("net", "test"): 20,
    }
    assert table["batch"].nunique() == 2 and (table.groupby("batch")["reference_ms"].nunique() == 1).all()
    assert {("exporting", True), ("measuring", True)} <= seen
    write_table(tmp_path / "profile.parquet", PROFILE_KIND, table, Record({}, 0))
    again = read_table(tmp_path / "profile.parquet", PROFILE_KIND)
    predictor = fit_predictor(again, tiny, "cpu", {"cpu": "this"})
    assert predictor == fit_predictor(table, tiny, "cpu", {"cpu": "this"})
    assert predictor.machine == {"cpu": "this"}
    assert predictor.errors["unseen_networks"]["models"] == 20
    assert predictor.errors["profile"]["models"] == 95


class Simulated:
    """A device whose latencies are those of a predictor, in a fake time that exporting takes as well."""

    def __init__(self, truth, monkeypatch) -> None:
        self.truth, self.now, self.slowness = truth, 0.0, 1.0
        self.measured: list[int] = []
        self.batches = itertools.count()
        self.dies_in = None
        monkeypatch.setattr(profiling, "BATCH", 40)
        monkeypatch.setattr(profiling.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(InProcessRuntime, "load", lambda runtime, path, device: nullcontext(self.model(path)))
        monkeypatch.setattr(files, "write_file", self.write_file)
        monkeypatch.setattr(files, "random_graph", lambda plan, height, rng: (plan, height))
        self.graphs: dict[str, float] = {}

    def write_file(self, graph, device, stem):
        if stem.name == "reference":
            self.graphs[stem.name] = 0.1
            return stem
        self.now += 0.1
        plan, height = graph
        self.graphs[stem.name] = self.truth.predict(plan, height).latency_ms
        return stem

    def model(self, path):
        if path.name == "reference":
            number = next(self.batches)
            self.slowness = 1.0 + number
            if number == self.dies_in:
                raise KeyboardInterrupt
        else:
            self.measured.append(int(path.name))
        return SimulatedModel(self, self.graphs[path.name])


class SimulatedModel:
    def __init__(self, device, ms) -> None:
        self.device, self.ms = device, ms

    def round_ms(self, round_s: float) -> float:
        self.device.now += round_s
        return self.ms * self.device.slowness


@pytest.fixture
def simulated(truth, monkeypatch):
    return Simulated(truth, monkeypatch)


COUNTS_OF_4_BATCHES = ProfileCounts(blocks_per_type=2, nets=50, test_nets=20)
PATIENT = Limits(1e9)


def profiled(tiny, limits=PATIENT, counts=COUNTS_OF_4_BATCHES, **options) -> pd.DataFrame:
    return profile(load_device("cpu"), tiny, 10, counts=counts, limits=limits, seed=0, **options)


def test_batches_measured_at_another_speed_are_brought_to_the_same(tiny, truth, simulated):
    table = profiled(tiny)
    assert table["batch"].nunique() == 4
    usual = table["reference_ms"].drop_duplicates().median() / 0.1
    models = sample_models(tiny, 10, ProfileCounts(8, 200, 20), 0)
    expected = [
        truth.predict(models[i].plan(), models[i].height).latency_ms * usual for i in table["model"].astype(int)
    ]
    assert table["latency_ms"].tolist() == pytest.approx(expected)
    assert profile_figures(table)["drift_between_batches"] == pytest.approx(3.0)


def test_the_first_batch_covers_every_stage_and_block_type(tiny, simulated):
    table = profiled(tiny)
    first, later = table[table["batch"] == 0], table[table["batch"] > 0]
    assert len(first[first["role"] == "block"].drop_duplicates(["stage", "block"])) == 45
    assert first["predicted_ms"].isna().all() and (later["predicted_ms"] > 0).all()
    assert table["model"].is_unique and set(later["split"]) == {"fit", "test"}
    assert table.groupby(["role", "split"]).size().to_dict() == {
        ("block", "fit"): 90,
        ("net", "fit"): 50,
        ("net", "test"): 20,
    }


def test_a_first_batch_that_is_cut_short_holds_all_sorts(tiny, simulated):
    table = profiled(tiny, Limits(4.0))
    assert set(table["batch"]) == {0} and len(table) < 45
    assert set(zip(table["role"], table["split"], strict=True)) == {("block", "fit"), ("net", "fit"), ("net", "test")}


def test_a_target_that_is_reached_ends_the_profile(tiny, simulated):
    assert len(profiled(tiny, Limits(1e9, target=0.9))) < len(profiled(tiny))


def test_a_short_budget_profiles_fewer_models(tiny, simulated):
    whole = profiled(tiny)
    some, one = profiled(tiny, Limits(20.0)), profiled(tiny, Limits(0.0))
    assert 1 == len(one) < len(some) < len(whole)


def test_a_last_batch_for_which_time_is_short_is_as_long_as_fits(tiny, simulated):
    whole = profiled(tiny)
    taken_s = simulated.now
    cut = profiled(tiny, Limits(0.9 * taken_s))
    counts = cut.groupby("batch").size()
    assert list(counts.index) == [0, 1, 2, 3] and profiling.LEAST_BATCH <= counts[3] < whole.groupby("batch").size()[3]
    assert simulated.now - taken_s == pytest.approx(0.9 * taken_s, rel=0.1)
    almost_three = Limits(taken_s * (len(whole[whole["batch"] < 3]) + profiling.LEAST_BATCH / 2) / len(whole))
    assert set(profiled(tiny, almost_three)["batch"]) == {0, 1, 2}  # too few would be left for a fourth


def test_a_time_that_is_over_before_anything_is_measured_is_no_error(tiny, simulated):
    assert len(profiled(tiny, Limits(-1.0))) == 1


def test_a_profile_that_was_cut_short_goes_on_when_it_is_given_time(tiny, simulated):
    whole = profiled(tiny)
    saved: list[pd.DataFrame] = []
    profiled(tiny, Limits(0.9 * simulated.now), save=saved.append)
    per_model = (whole["export_s"] + whole["timing_s"]).mean()
    no_more = profiled(tiny, Limits(profiling.LEAST_BATCH * per_model / 2), earlier=saved[-1])
    assert len(no_more) == len(saved[-1]) < len(whole)  # too few would be measured
    finished = profiled(tiny, earlier=saved[-1])
    assert finished.groupby(["role", "split"]).size().equals(whole.groupby(["role", "split"]).size())
    assert finished["model"].is_unique


def test_what_the_runtimes_format_cannot_hold_is_not_measured(tiny, simulated, monkeypatch):
    def small(plan, device):
        return max(op.out_channels for op in plan.ops if hasattr(op, "out_channels")) <= 200

    everything = profiled(tiny)
    monkeypatch.setattr(profiling, "can_be_written", small)
    table = profiled(tiny)
    plans = [row_plan(row, tiny) for row in table.to_dict("records")]
    assert all(small(plan, None) for plan in plans) and len(table) > 50
    assert not all(small(row_plan(row, tiny), None) for row in everything.to_dict("records"))


def test_a_profile_that_was_killed_goes_on_to_the_same_models(tiny, tmp_path, simulated):
    whole = profiled(tiny)
    path, record = tmp_path / "checkpoint.parquet", Record({"device": "cpu"}, 0)
    simulated.batches, simulated.dies_in, simulated.measured = itertools.count(), 2, []
    with pytest.raises(KeyboardInterrupt):
        profiled(tiny, save=lambda table: write_checkpoint(path, table, record))
    kept = read_checkpoint(path, Record({"device": "cpu"}, 0))
    assert kept is not None and set(kept["batch"]) == {0, 1}
    simulated.batches, simulated.dies_in, simulated.measured = itertools.count(2), None, []
    resumed = profiled(tiny, earlier=kept)
    assert set(simulated.measured).isdisjoint(kept["model"])
    pd.testing.assert_frame_equal(resumed, whole)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path, true_profile):
    path = tmp_path / "checkpoint.parquet"
    assert read_checkpoint(path, Record({}, 0)) is None
    write_checkpoint(path, true_profile, Record({"machine": "a"}, 0, earlier_wall_s=1000.0))
    record = Record({"machine": "a"}, 0)
    assert len(read_checkpoint(path, record)) == len(true_profile) and record.earlier_wall_s >= 1000.0
    assert read_checkpoint(path, Record({"machine": "b"}, 0)) is None
    assert read_checkpoint(path, Record({"machine": "a"}, 1)) is None
    path.write_bytes(path.read_bytes()[:100])
    assert read_checkpoint(path, record) is None


def test_a_table_cannot_be_profiled(tiny):
    with pytest.raises(DeviceError, match="Nothing can be run on pixel4"):
        profile(load_device("pixel4"), tiny, 10, counts=COUNTS, limits=PATIENT, seed=0)
