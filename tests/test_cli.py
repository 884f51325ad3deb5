"""The command line: what it prints, in which form, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spaceevo.cli import app
from spaceevo.errors import CodeError
from spaceevo.latency.devices import shipped_devices
from spaceevo.space import load_hyperspace, parse_space

SPACE = "tiny-4664-1222"
PUBLISHED = "mobilew-122222-155400"
PUBLISHED_A0 = (
    "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#96#96#144#144#192#192#216"
    "_e0#1.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0_r160"
)
HEAVY = ("torch", "tensorflow", "onnxruntime", "pandas", "matplotlib")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def run_json(*arguments: str) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["tiny", "small", "mobilew", "onnxw"])
def test_a_hyperspace_is_described_with_every_block_type(name: str) -> None:
    found, hyperspace = run_json("describe", name), load_hyperspace(name)
    assert [entry["block"] for entry in found["block_types"]] == [t.block for t in hyperspace.block_types]
    text = run("describe", name).stdout
    assert all(stage.name in text for stage in hyperspace.stages)


@pytest.mark.parametrize(("code", "classes"), [("tiny-0610-1220", 10), ("small-5500-1200", 10), (PUBLISHED, 1000)])
def test_classes_are_those_of_the_dataset_that_the_hyperspace_is_for(code: str, classes: int) -> None:
    largest = parse_space(code).largest.code
    found = run_json("describe", code, largest)
    assert found == run_json("describe", code, largest, "--classes", str(classes))
    assert found != run_json("describe", code, largest, "--classes", str(classes + 1))


@pytest.mark.parametrize("code", [SPACE, PUBLISHED])
def test_a_space_is_described_stage_by_stage(code: str) -> None:
    found, space = run_json("describe", code), parse_space(code)
    assert found["space"] == code
    assert found["subnets"] == space.count()
    described = [(stage["stage"], stage["block"], tuple(stage["widths"])) for stage in found["stages"]]
    expected = [(o.stage.name, o.block_type.block, o.widths) for o in space.options]
    assert described[: len(expected)] == expected
    assert f"{space.count():,}" in run("describe", code).stdout


def test_a_published_subnet_has_its_macs_and_parameters() -> None:
    found = run_json("describe", PUBLISHED, PUBLISHED_A0)
    assert found["contained"] and found["outside"] is None
    assert found["classes"] == 1000 and found["resolution"] == 160
    assert "in mobilew-122222-155400: yes" in run("describe", PUBLISHED, PUBLISHED_A0).stdout
    fewer = run_json("describe", PUBLISHED, PUBLISHED_A0, "--classes", "10")
    last = load_hyperspace("mobilew").stages[-2].widths[0]
    assert found["params"] - fewer["params"] == 990 * (last + 1)
    assert found["macs"] - fewer["macs"] == 990 * last


def test_a_named_subnet_is_described_with_its_codes() -> None:
    found = run_json("describe", "SEQnet@pixel4-A0")
    assert (found["name"], found["space"], found["subnet"]) == ("SEQnet@pixel4-A0", PUBLISHED, PUBLISHED_A0)
    assert found | {"name": None} == run_json("describe", PUBLISHED, PUBLISHED_A0) | {"name": None}
    assert run_json("describe", "spaceevo@pixel4", "SEQnet@pixel4-A0") == found
    text = run("describe", "SEQnet@pixel4-A0").stdout
    assert all(part in text for part in ("SEQnet@pixel4-A0", PUBLISHED, PUBLISHED_A0, "input 160 pixels, 1000 classes"))


def test_a_named_space_is_described_with_its_code() -> None:
    found = run_json("describe", "spaceevo@pixel4")
    assert found == run_json("describe", PUBLISHED) | {"name": "spaceevo@pixel4"}
    assert f"Space spaceevo@pixel4, {PUBLISHED}: " in run("describe", "spaceevo@pixel4").stdout


def test_a_subnet_outside_its_space_is_described_and_said_to_be() -> None:
    code = PUBLISHED_A0.replace("_r160", "_r161")
    found = run_json("describe", PUBLISHED, code)
    assert not found["contained"] and "Resolution 161" in found["outside"]
    assert "Resolution 161" in run("describe", PUBLISHED, code).stdout


@pytest.mark.parametrize("seed_code", [SPACE])
def test_classes_default_to_those_of_the_embedded_dataset(seed_code: str) -> None:
    subnet = parse_space(seed_code).smallest.code
    assert run_json("describe", seed_code, subnet)["classes"] == 10


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nothing",), "'nothing'"),
        (("tiny-12-34",), "'tiny-12-34'"),
        (("tiny-4664",), "'tiny-4664'"),
        (("other-1-1",), "'other'"),
        ((SPACE, "d1_k3"), "'d1_k3'"),
        (("tiny", "d1_k3"), "hyperspace"),
        (("missing-file.yaml",), "'missing-file.yaml'"),
        (("SEQnet@pixel4-A9",), "SEQnet@pixel4-A4"),
        (("SEQnet@pixel4-A1", PUBLISHED_A0), "is a subnet already"),
        (("spaceevo@vnni", "SEQnet@pixel4-A1"), "not of onnxw-151122-023231"),
    ],
)
def test_a_wrong_code_is_one_sentence_on_stderr(arguments: tuple[str, ...], named: str) -> None:
    result = run("describe", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and named in line and line.endswith(".")


def test_debug_lets_the_error_through() -> None:
    assert isinstance(run("describe", "tiny-1", "--debug").exception, CodeError)


def test_plain_text_has_no_rules_and_no_colours() -> None:
    assert run("describe", SPACE).stdout.isascii()
    assert "\x1b" not in run("describe", SPACE).stdout


def test_describing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from spaceevo.cli import app\n"
        f"result = CliRunner().invoke(app, ['describe', {PUBLISHED!r}, {PUBLISHED_A0!r}])\n"
        f"print(result.exit_code, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_doctor_finds_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(run("doctor", "--json").stdout)
    assert found["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert found["packages"]["torch"] is not None
    assert found["torchvision_error"] is None
    assert found["cpu"]["cores"] >= 1
    assert {device["device"] for device in found["devices"]} == set(shipped_devices())
    assert {d["device"]: d["usable"] for d in found["devices"]}["pixel4"] == "predict"
    assert found["params"]["valid"] is None


def test_doctor_reports_a_wrong_parameter(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = Path(__file__).parents[1].joinpath("params.yaml").read_text()
    path.write_text(text.replace("hyperspace: tiny", "hyperspace: gigantic"))
    result = run("doctor", "--params", str(path))
    assert result.exit_code == 1
    assert "gigantic" in result.stderr and str(path) in result.stderr
    path.write_text(text)
    assert "mine.yaml: valid" in run("doctor", "--params", str(path)).stdout


def test_doctor_says_why_a_device_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceevo.report import environment

    monkeypatch.setattr("spaceevo.latency.runtimes.importlib.util.find_spec", lambda name: None)
    found = environment.inspect_device("cpu")
    assert found["usable"] == "no" and "pip install onnxruntime" in found["reason"]


def test_doctor_reports_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceevo.report import environment

    monkeypatch.setitem(environment.PACKAGES, "onnx", ("exporting ONNX files", ("no-such-distribution",)))
    problems = environment.inspect_environment()["problems"]
    assert any("onnx is not installed" in problem for problem in problems)


def test_doctor_says_why_a_gpu_is_slower_than_it_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert "kernels for GPUs" not in run("doctor").stdout or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("spaceevo.gpu.find_spec", lambda name: None)
    shown = run("doctor").stdout
    assert "13.0: Some GPU" in shown
    assert "Triton is not installed" in shown


def test_doctor_sees_the_devices_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "server.yaml").write_text("runtime: onnxruntime\nthreads: 2\n")
    found = run_json("doctor")
    assert "server" in {device["device"] for device in found["devices"]}
