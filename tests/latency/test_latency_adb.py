"""A phone over adb, played by a fake `adb`: what is sent to it, what is read, and how it can fail."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from made import small_hyperspace

from spaceevo.errors import DeviceError
from spaceevo.latency import adb, profile
from spaceevo.latency import files as timed_files
from spaceevo.latency.adb import parse_latency_ms
from spaceevo.latency.bench import measure_files
from spaceevo.latency.devices import at_hand, check_runtime, load_device
from spaceevo.latency.profile import Limits
from spaceevo.latency.samples import ProfileCounts
from spaceevo.report.environment import inspect_device

RECORDED = Path(__file__).parent / "recorded"
TRANSCRIPT = (RECORDED / "benchmark_model.txt").read_text()


class Phone:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set(phones={"99131FFAZ0047R": "device"}, tool=True, runs=None, transcript=TRANSCRIPT, code=0)

    def set(self, **state) -> None:
        path = self.folder / "state.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | state))

    @property
    def commands(self) -> list[str]:
        return (self.folder / "commands.txt").read_text().splitlines()

    @property
    def files(self) -> list[str]:
        return [path.name for path in self.folder.glob("*.tflite")]


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Phone:
    folder = tmp_path / "phone"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "fake_adb.py", folder)
    executable = folder / "adb"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {folder}/fake_adb.py "$@"\n')
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Phone(folder)


@pytest.fixture
def device():
    device = load_device("pixel4-adb")
    return device.model_copy(update={"measure": device.measure.model_copy(update={"rounds": 2})})


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{name}.tflite" for name in "ab"]
    for path, size in zip(paths, (100_000, 250_000), strict=True):
        path.write_bytes(os.urandom(size))
    return paths


def sentence(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_the_tool_is_run_on_the_core_and_delegate_of_the_device(phone, device, files):
    first, second = measure_files(device, files).timings
    assert (first.latency_ms, second.latency_ms) == (1.0, 2.5)
    assert first.rounds == 2
    runs = [command for command in phone.commands if "--graph" in command]
    assert len(runs) == 4
    for option in ("taskset 80 /data/local/tmp/benchmark_model", "--num_threads=1", "--use_xnnpack=true"):
        assert all(option in run for run in runs)
    assert all("--min_secs=0.2" in run and "--warmup_runs=5" in run for run in runs)
    assert phone.files == []  # they are removed


def test_options_of_the_device_reach_the_phone(phone, device, files):
    options = {"serial": "99131FFAZ0047R", "delegate": "gpu", "benchmark_model": "/data/tool"}
    measure_files(device.model_copy(update={"options": options, "threads": 4}), files[:1])
    run = next(command for command in phone.commands if "--graph" in command)
    assert run.startswith("-s 99131FFAZ0047R shell '/data/tool --graph=") and "--num_threads=4" in run
    assert "--use_gpu=true" in run and "taskset" not in run


def test_what_the_tool_prints_is_read():
    assert parse_latency_ms(TRANSCRIPT, "cpu") == 5.98362
    older = TRANSCRIPT.replace("INFO: ", "")
    assert parse_latency_ms(older, "cpu") == 5.98362
    newer = (RECORDED / "benchmark_model_with_median.txt").read_text()
    assert parse_latency_ms(newer, "cpu") == 2913.402
    without_median = newer.replace(" median=2913402", "").replace(" median=211000", "")
    assert parse_latency_ms(without_median, "cpu") == 2950.34


def test_a_delegate_that_leaves_the_network_to_the_cpu_is_an_error():
    said = "WARNING: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
    with pytest.raises(DeviceError, match="gpu delegate does not take the network") as caught:
        parse_latency_ms(said + TRANSCRIPT, "gpu")
    sentence(caught)


def test_a_tool_that_fails_is_quoted(phone, device, files):
    phone.set(transcript=(RECORDED / "benchmark_model_failed.txt").read_text(), code=1)
    with pytest.raises(DeviceError, match="failed to run taskset, which said: ERROR: Benchmarking failed") as caught:
        measure_files(device, files)
    sentence(caught)
    assert phone.files == []
    phone.set(code=0)
    with pytest.raises(DeviceError, match=r"stated no latency but said: ERROR: Benchmarking failed\.$"):
        measure_files(device, files)


def test_a_phone_that_disconnects_midway(phone, device, files):
    phone.set(runs=3)
    with pytest.raises(DeviceError, match=r"pixel4-adb has disconnected .*no devices.*goes on") as caught:
        measure_files(device, files)
    sentence(caught)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"phones": {}}, "No phone is attached for the device pixel4-adb: connect it by USB"),
        ({"phones": {"A": "unauthorized"}}, "The phone for the device pixel4-adb is unauthorized: unlock it"),
        ({"phones": {"A": "device", "B": "device"}}, "Several phones are attached (A, B): name one as options.serial"),
        ({"tool": False}, "no executable /data/local/tmp/benchmark_model: push TFLite's benchmark_model"),
    ],
)
def test_a_phone_that_cannot_be_used_is_one_sentence_in_doctor_too(phone, state, said):
    phone.set(**state)
    with pytest.raises(DeviceError) as caught:
        check_runtime(load_device("pixel4-adb"))
    assert said in sentence(caught)
    assert not at_hand(load_device("pixel4-adb"))
    found = inspect_device("pixel4-adb")
    assert found["usable"] == "no" and said in found["reason"]


def test_an_adb_that_hangs_is_one_sentence(phone, device, monkeypatch):
    (phone.folder / "adb").write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(adb, "ADB_TIMEOUT_S", 0.2)
    with pytest.raises(DeviceError, match=r"did not list its phones within 0\.2 s") as caught:
        check_runtime(device)
    sentence(caught)


def test_without_adb_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "needs adb, which is not on the path" in inspect_device("pixel4-adb")["reason"]


def test_a_phone_at_hand_can_be_measured(phone, device):
    assert inspect_device("pixel4-adb")["usable"] == "measure" and at_hand(device)
    machine = device.how.machine(device)
    assert machine["phone"] == "Pixel 4" and machine["runtime"].startswith("benchmark_model 0123")
    assert (machine["cores"], machine["delegate"], machine["threads"]) == ("80", "cpu", 1)


def test_a_profile_cut_short_by_a_phone_goes_on_from_its_checkpoint(phone, device, monkeypatch):
    """Files of the size of a network's work take the place of TFLite's, which are not what is tested here."""

    def write_file(graph, device, stem):
        path = stem.with_name(stem.name + device.suffix)
        path.write_bytes(os.urandom(1000 + 37 * len(graph.nodes)))
        return path

    def go(**options):
        counts, limits = ProfileCounts(blocks_per_type=1, nets=10, test_nets=4), Limits(1e9)
        return profile.profile(device, small_hyperspace(), 10, counts=counts, limits=limits, seed=0, **options)

    def timed() -> int:
        return len([command for command in phone.commands if "--graph" in command])

    monkeypatch.setattr(timed_files, "write_file", write_file)
    monkeypatch.setattr(timed_files, "MOST_PROCESSES", 1)
    monkeypatch.setattr(profile, "BATCH", 6)
    device = device.model_copy(update={"measure": device.measure.model_copy(update={"rounds": 1})})
    saved = []
    phone.set(runs=17)
    with pytest.raises(DeviceError, match="has disconnected"):
        go(save=saved.append)
    (kept,) = saved
    phone.set(phones={"99131FFAZ0047R": "device"}, runs=None)
    before = timed()
    table = go(earlier=kept)
    assert table["model"].is_unique and table["role"].value_counts().to_dict() == {"net": 14, "block": 9}
    batches = table["batch"].nunique() - 1
    assert timed() - before == len(table) - len(kept) + batches  # and the reference once in each
