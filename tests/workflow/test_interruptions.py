"""Writes and trainings that are cut short: the disk fills, the process is killed, someone presses Ctrl-C."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from workflow.failing import assert_one_sentence, command, contents, environment, make_hook, run
from workflow.micro import RECIPE, micro_params

from spaceevo.artifacts import Record, read_header, read_table, read_tensors, verify, write_table, write_tensors
from spaceevo.latency.checkpoint import CHECKPOINT_KIND as PROFILE_CHECKPOINT_KIND
from spaceevo.latency.profile import PROFILE_KIND
from spaceevo.train.state import CHECKPOINT_KIND

FORMATS = ("json", "parquet", "safetensors")


def writing(format: str, out: Path) -> list[str]:
    """A quick command that writes `out`/made.<format>, and for safetensors two more files after it."""
    made = out / f"made.{format}"
    if format == "json":
        return command("table_latency_predictor", device="pixel4", output=made)
    if format == "parquet":
        return command("merge_lut", arguments=["results/lut.parquet"], output=made)
    dataset = {"name": "clutter", "clutter": {"train_images": 20, "val_images": 20, "test_images": 20}}
    others = {split: out / f"{split}.safetensors" for split in ("val", "test")}
    return command("prepare_data", dataset=dataset, download=0, seed=0, train=made, **others)


# Mounts a file system of two pages on $1 in a mount namespace of its own, copies $2 there, runs the rest, and copies to
# $3 what is there then.
SMALL_DISK = """
disk=$1 before=$2 after=$3; shift 3
mount -t tmpfs -o size=8k tmpfs "$disk" && cp -a "$before/." "$disk" || exit 99
"$@"; code=$?
cp -a "$disk/." "$after"
exit $code
"""
FULL_DISK = """
import errno, os

def fsync(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

os.fsync = fsync
"""


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_fills_up(format: str, project: Path, tmp_path: Path, untouched: None) -> None:
    disk, before, after = (tmp_path / name for name in ("disk", "before", "after"))
    for folder in (disk, before, after):
        folder.mkdir()
    (before / f"made.{format}").write_text("finished before")
    isolated = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    words = [*isolated, "sh", "-c", SMALL_DISK, "sh", str(disk), str(before), str(after), *writing(format, disk)]
    done = run(project, words) if shutil.which("unshare") else None
    if done is None or done.returncode == 99 or "unshare:" in done.stderr:
        # Nothing can be mounted here: let the system call that ends a write fail.
        shutil.copytree(before, after, dirs_exist_ok=True)
        done = run(project, writing(format, after), make_hook(tmp_path / "hook", FULL_DISK))
    assert_one_sentence(done, "disk is full", f"made.{format}", "run again")
    assert contents(after) == contents(before)


HANGING_DISK = """
import os, pathlib, time

def fsync(descriptor):
    pathlib.Path({marker!r}).touch()
    time.sleep(300)

os.fsync = fsync
"""


@pytest.mark.parametrize("format", FORMATS)
def test_a_kill_in_the_middle_of_a_write(format: str, project: Path, tmp_path: Path, untouched: None) -> None:
    out, marker = tmp_path / "out", tmp_path / "writing"
    made = out / f"made.{format}"
    out.mkdir()
    made.write_text("finished before")
    before = contents(out)
    process = start(
        project, writing(format, out), make_hook(tmp_path / "hook", HANGING_DISK.format(marker=str(marker)))
    )
    wait_for(marker, process)
    process.kill()
    process.communicate()
    visible = {name: digest for name, digest in contents(out).items() if not name.startswith(".")}
    assert visible == before
    done = run(project, writing(format, out))
    assert done.returncode == 0, done.stderr
    verify(made)


# Interrupted training


def start(project: Path, words: list[str], hook: Path | None = None) -> subprocess.Popen[str]:
    def listen() -> None:  # shells have what they start in the background ignore Ctrl-C, and so its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        words,
        cwd=project,
        env=environment(hook),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=listen,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a running process has made a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{path.name} was not made: {process.communicate()[1]}")
        time.sleep(0.01)


def training(name: str, out: Path) -> list[str]:
    """A training of a few seconds that leaves a checkpoint after every few steps."""
    options: dict[str, Any] = {"train": "results/train.safetensors", "seed": 0, "workers": 0, "checkpoint_steps": 3}
    options |= {"threads": 1, "augment": {}, "checkpoint": out / "checkpoint.safetensors"}
    options |= {"output": out / "made.safetensors"}
    sandwich = micro_params()["supernet"]["sandwich"]
    match name:
        case "train_teacher":
            options |= {"val": "results/val.safetensors", "hyperspace": "micro"}
            options |= {"teacher": {"model": "micro-11-10", "recipe": RECIPE | {"epochs": 15}}}
        case "train_supernet_fp32":
            options |= {"space": "results/space.json", "sandwich": sandwich, "recipe": RECIPE | {"epochs": 8}}
        case "train_supernet_int8":
            options |= {"supernet": "results/supernet.safetensors", "calibration_batches": 1}
            options |= {"sandwich": sandwich, "recipe": RECIPE | {"epochs": 5}}
    return command(name, **options)


@pytest.mark.parametrize("name", ["train_teacher", "train_supernet_fp32", "train_supernet_int8"])
def test_ctrl_c_in_the_middle_of_training(name: str, project: Path, tmp_path: Path, untouched: None) -> None:
    checkpoint, made = tmp_path / "checkpoint.safetensors", tmp_path / "made.safetensors"
    words = training(name, tmp_path)
    process = start(project, words)
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("interrupted: run again")
    assert not made.exists()

    # The cost of an interrupted run is counted in the artifact: a large one in the checkpoint shows it was read.
    arrays, content = read_tensors(checkpoint, CHECKPOINT_KIND)
    assert content["step"] > 0
    content["cost"] = {"wall_s": 1e6, "cpu_s": 1e6, "gpu_s": 0.0}
    write_tensors(checkpoint, CHECKPOINT_KIND, arrays, Record({}), content)
    done = run(project, words)
    assert done.returncode == 0, done.stderr
    assert read_header(made)["cost"]["wall_s"] > 1e6
    assert not checkpoint.exists()


def test_a_profile_that_was_killed_goes_on(project: Path, tmp_path: Path, untouched: None) -> None:
    checkpoint, made = tmp_path / "checkpoint.parquet", tmp_path / "made.parquet"
    counts = {"blocks_per_type": 1, "nets": 200, "test_nets": 20, "time_limit_s": 600}
    options: dict[str, Any] = {"device": "cpu", "hyperspace": "micro", "val": "results/val.safetensors"}
    options |= {"counts": counts, "seed": 0, "checkpoint": checkpoint, "output": made}
    words = command("profile_latency", **options)
    process = start(project, words)
    wait_for(checkpoint, process)
    process.kill()
    process.communicate(timeout=120)
    assert not made.exists()

    # A run that goes on counts the cost of the killed one: with a large one in the checkpoint, its time is up.
    kept, header = read_table(checkpoint, PROFILE_CHECKPOINT_KIND), read_header(checkpoint)
    record = Record(header["params"], header["seed"], earlier_wall_s=1e6)
    write_table(checkpoint, PROFILE_CHECKPOINT_KIND, kept, record)
    done = run(project, words)
    assert done.returncode == 0, done.stderr
    assert read_header(made)["cost"]["wall_s"] > 1e6
    assert read_table(made, PROFILE_KIND)["model"].tolist() == kept["model"].tolist()
    assert not checkpoint.exists()
