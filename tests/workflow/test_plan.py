"""What `spaceevo plan` expects: from recorded costs scaled by work, or from rates that it says are assumed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow.micro import HYPERSPACE, ROOT, make_project, micro_params, snakemake

from spaceevo.artifacts import read_header
from spaceevo.config import parse_params
from spaceevo.space import load_hyperspace, parse_hyperspace
from spaceevo.workflow.plan import ASSUMED_CPU_S
from spaceevo.workflow.work import EFFICIENTNETS, UNITS, Setting, foreseen_images, mean_macs, teacher_macs, work

MICRO = Setting(parse_hyperspace("micro", HYPERSPACE), 200, "tiny-4664-1222")
TEACHER = "results/teacher.safetensors"


def values() -> dict[str, Any]:
    """The parameters as rules name them."""
    return named(micro_params())


def named(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters by the keys that rules take: sections, and parts of some."""
    sections = ("supernet", "comparison", "search", "export")
    return params | {f"{name}.{key}": value for name in sections for key, value in params[name].items()}


def planned(folder: Path, *arguments: str) -> dict[str, Any]:
    words = [sys.executable, "-c", "from spaceevo.cli import main; main()", "plan", "--json", *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rule(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["rules"] if one["rule"] == name)


@pytest.mark.parametrize("name", sorted(set(UNITS) - {"profile_latency", "evolve_space", "study_device"}))
def test_work_grows_with_pictures_or_what_takes_them(name: str) -> None:
    key = {
        "measure_block_losses": ("lut", ("train_images", "val_images")),
        "compare_space": ("search", ("recalibration_images", "val_images")),
        "search_subnets": ("search", ("recalibration_images", "val_images")),
        "extract_seqnet": ("export", ("recalibration_images", "verify_images")),
        "write_card": ("export", ("recalibration_images",)),
    }.get(name)
    once, twice = values(), micro_params()
    setting = Setting(MICRO.hyperspace, 2 * MICRO.images, MICRO.teacher)
    if key:
        section, counts = key
        twice[section] |= {count: 2 * once[section][count] for count in counts}
        if section == "search":
            twice[section]["shortlist"] |= {"val_images": 2 * once[section]["shortlist"]["val_images"]}
        setting = MICRO
    assert work(name, "stage1", named(twice), setting) == pytest.approx(2 * work(name, "stage1", once, MICRO))


def test_all_that_has_a_unit_has_a_rate_before_anything_is_recorded() -> None:
    assert set(ASSUMED_CPU_S) == set(UNITS)


def test_a_phase_that_simulates_int8_costs_twice_the_other() -> None:
    same = values()
    same["supernet.sandwich"]["largest_alone"] = 0.0
    fp32, int8 = (work(f"train_supernet_{phase}", None, same, MICRO) for phase in ("fp32", "int8"))
    assert int8 == pytest.approx(2 * fp32)


def test_mixed_resolutions_cost_what_they_add() -> None:
    macs = mean_macs(MICRO.hyperspace)
    mixed, ends = values(), values()
    ends["supernet.sandwich"] |= {"mixed_resolutions": False}
    alone = mixed["supernet.sandwich"]["largest_alone"]
    added = {
        "fp32": alone * macs.largest_lower + (1 - alone) * (macs.smallest_any - macs.smallest),
        "int8": 2 * (macs.smallest_any - macs.smallest),
    }
    for phase, passes in added.items():
        once, more = (work(f"train_supernet_{phase}", None, taken, MICRO) for taken in (ends, mixed))
        steps = 3 * mixed[f"supernet.{phase}"]["epochs"] * MICRO.images
        assert passes > 0 and more - once == pytest.approx(steps * passes)


def test_macs_of_published_hyperspaces_and_teachers() -> None:
    mobilew = load_hyperspace("mobilew")
    macs = mean_macs(mobilew)
    assert macs.smallest < macs.random < macs.largest
    assert macs.smallest < macs.smallest_any and 0 < macs.largest_lower < macs.largest
    assert macs.smallest > 20e6 and macs.largest < 20e9
    teacher = teacher_macs(Setting(mobilew, 1, "efficientnet_b5"))
    native_macs, native = EFFICIENTNETS["efficientnet_b5"]
    assert teacher == pytest.approx(native_macs * (mobilew.block_kd_resolutions[-1] / native) ** 2)


def test_pictures_that_are_there_are_counted(tmp_path: Path) -> None:
    document = micro_params()
    document["dataset"] |= {"name": "imagefolder", "root": str(tmp_path), "val_fraction": 0.2, "test_fraction": 0.3}
    dataset = parse_params(document).dataset
    for number in range(10):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert foreseen_images(dataset)[0] == 5
    (tmp_path / "class0").rename(tmp_path / "train")
    assert foreseen_images(dataset)[0] == round(5 * 0.5)  # val and test come out of it
    (tmp_path / "class1").rename(tmp_path / "val")
    assert foreseen_images(dataset)[0] == 4
    images, origin = foreseen_images(dataset.model_copy(update={"root": "nowhere"}))
    assert images > 1_000_000 and "assumed" in origin and "nowhere" in origin


def test_a_recorded_cost_is_scaled_by_work(tmp_path: Path) -> None:
    params = micro_params()
    params["devices"].pop("cpu")
    folder = make_project(tmp_path / "project", params)
    done = snakemake(folder, TEACHER)
    assert done.returncode == 0, done.stderr[-5000:]
    cost = read_header(folder / TEACHER)["cost"]

    current = rule(planned(folder), "train_teacher")
    assert (current["jobs"], current["current"], current["cpu_h"], current["gpu_h"]) == (1, 1, 0, 0)

    params["teacher"]["recipe"]["epochs"] *= 3
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    found = planned(folder)
    due, blocks = rule(found, "train_teacher"), rule(found, "distill_blocks")
    assert due["current"] == 0 and due["basis"].startswith("1 recorded")
    assert due["cpu_h"] == pytest.approx(3 * cost["cpu_s"] / 3600)
    assert due["wall_h"] == pytest.approx(3 * cost["wall_s"] / 3600)
    assert (blocks["jobs"], blocks["current"]) == (3, 0) and blocks["basis"].startswith("assumed")
    assert rule(found, "prepare_data")["current"] == 1
    assert "200 pictures to train on (counted in results/data/clutter/train.safetensors)" in found["assumptions"][0]


def test_the_published_settings_are_planned(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "project", yaml.safe_load((ROOT / "params.yaml").read_text()))
    configuration = str(ROOT / "params" / "imagenet.yaml")
    found = planned(folder, "--configfile", configuration)
    assert rule(found, "distill_blocks")["jobs"] == len(load_hyperspace("mobilew").distilled_stages)
    assert rule(found, "write_card")["jobs"] == 15
    assert {one["rule"] for one in found["rules"] if one["gpu_h"]} == {
        *("train_teacher", "distill_blocks", "train_supernet_fp32", "train_supernet_int8")
    }
    assert found["total"]["cpu_h"] == pytest.approx(sum(one["cpu_h"] for one in found["rules"]))
    assert found["total"]["gpu_h"] > found["space_search"]["gpu_h"] > 0
    assert found["space_search"]["paper_gpu_h"] == 25
    faster = planned(folder, "--configfile", configuration, "--gpu-rate", "3")
    assert faster["total"]["gpu_h"] == pytest.approx(found["total"]["gpu_h"] / 2)
    assert any("3·10^12" in line for line in faster["assumptions"])


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "project", micro_params())
    words = [sys.executable, "-c", "from spaceevo.cli import main; main()", "plan", "--configfile", "lost.yaml"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "lost.yaml" in done.stderr and len(done.stderr.strip().splitlines()) == 1
