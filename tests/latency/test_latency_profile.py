"""Profiles: what is sampled covers the hyperspace; a small one goes end to end through onnxruntime."""

import collections
from dataclasses import replace

import pandas as pd
import pytest

from spaceevo.artifacts import Record, read_table, write_table
from spaceevo.errors import DeviceError
from spaceevo.latency import profile as profiling
from spaceevo.latency.devices import MeasureOptions, load_device
from spaceevo.latency.fit import fit_predictor
from spaceevo.latency.profile import PROFILE_KIND, ProfileCounts, ProfiledBlock, ProfiledNet, profile, sample_models
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


def test_end_to_end_with_onnxruntime(tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    device = load_device("cpu").model_copy(update={"measure": MeasureOptions(warm_up=1, rounds=2, round_s=0.002)})
    seen = set()
    table = profile(
        device,
        tiny,
        10,
        counts=ProfileCounts(blocks_per_type=1, nets=8, test_nets=4),
        budget_s=20,
        seed=0,
        progress=lambda what, done, total: seen.add((what, done == total)),
    )
    assert (table["latency_ms"] > 0).all() and (table["rounds"] == 2).all()
    assert table.groupby(["role", "split"]).size().to_dict() == {
        ("block", "fit"): 45,
        ("net", "fit"): 8,
        ("net", "test"): 4,
    }
    assert {("exporting", True), ("measuring", True)} <= seen
    write_table(tmp_path / "profile.parquet", PROFILE_KIND, table, Record({}, 0))
    again = read_table(tmp_path / "profile.parquet", PROFILE_KIND)
    predictor = fit_predictor(again, tiny, "cpu")
    assert predictor == fit_predictor(table, tiny, "cpu")
    assert predictor.errors["unseen_networks"]["models"] == 4


class InstantRunner:
    def invoke(self) -> None:
        sum(range(1000))


def test_a_short_budget_profiles_fewer_models(tiny, monkeypatch):
    monkeypatch.setattr(profiling, "load_graph", lambda graph, device, folder: InstantRunner())
    device = load_device("cpu").model_copy(update={"measure": MeasureOptions(warm_up=1, rounds=1, round_s=0.001)})
    counts = replace(COUNTS, nets=5, test_nets=5)
    few = profile(device, tiny, 10, counts=counts, budget_s=0.0, seed=0)
    many = profile(device, tiny, 10, counts=counts, budget_s=60.0, seed=0)
    assert len(few) == 1 and len(many) == len(sample_models(tiny, 10, counts, 0))
    assert isinstance(few, pd.DataFrame)


def test_a_table_cannot_be_profiled(tiny):
    with pytest.raises(DeviceError, match="Nothing can be run on pixel4"):
        profile(load_device("pixel4"), tiny, 10, counts=COUNTS, budget_s=1.0, seed=0)
