"""What one has made, others have: clones, caches and remotes, branches, and machines that differ."""

import contextlib
import getpass
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from workflow.failing import make_hook
from workflow.micro import ROOT
from workflow.team import BIN, append, call, cloned, copied, is_current, planned_rules, ran_stages, run, set_param

REPORT = ("report", "report_tables")
# `make share` of the project, without installing anything.
SHARE = ("make", "-f", str(ROOT / "Makefile"), "share", f"BIN={BIN}", "INSTALLED=")


@pytest.fixture(scope="module")
def clone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teammate's clone after `dvc pull` and `spaceevo sync`."""
    folder = cloned(finished, tmp_path_factory.mktemp("sharing") / "clone")
    run(folder, "dvc", "pull")
    assert planned_rules(folder), "Snakemake knows nothing of files that it did not make"
    assert "artifacts are current" in run(folder, "spaceevo", "sync")
    return folder


def test_a_clone_has_nothing_to_do(clone: Path) -> None:
    assert is_current(clone)
    assert "clean" in run(clone, "git", "status")


def test_a_change_in_a_clone_redoes_what_it_touches(clone: Path, tmp_path: Path) -> None:
    clone = copied(clone, tmp_path / "clone")
    set_param(clone, "report.dpi", 90)
    assert planned_rules(clone) == dict.fromkeys(REPORT, 1)
    assert ran_stages(run(clone, "dvc", "repro")) == {"report"}, "the tables came out the same"
    assert is_current(clone)


def test_a_change_before_sync_is_seen(finished: Path, tmp_path: Path) -> None:
    folder = cloned(finished, tmp_path / "clone")
    run(folder, "dvc", "pull")
    set_param(folder, "search.val_images", 39)
    said = run(folder, "spaceevo", "sync")
    assert "search_subnets-cpu is to be redone, and what follows from it: search" in said
    planned = planned_rules(folder)
    assert {"search_subnets", "extract_seqnet", "export_seqnet", "write_card", *REPORT} == set(planned)


def test_sync_vouches_for_no_parameters_that_dvc_does_not_know(finished: Path, tmp_path: Path) -> None:
    """A key that is stated at last, or no more, is in no stage of dvc.yaml until that is written anew."""
    folder = cloned(finished, tmp_path / "clone")
    run(folder, "dvc", "pull")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    del params["dataset"]["val_fraction"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    done = call(folder, "spaceevo", "sync")
    assert done.returncode == 1 and "run spaceevo stages" in done.stderr
    assert planned_rules(folder), "nothing was taken as current"


def test_code_of_before_sync_is_seen(finished: Path, tmp_path: Path) -> None:
    folder = cloned(finished, tmp_path / "clone")
    run(folder, "dvc", "pull")
    append(folder / "spaceevo/search/subnets.py", "\nADDED = 1\n")
    said = run(folder, "spaceevo", "sync")
    assert "search_subnets-pixel4 is to be redone, and what follows from it: code.search_subnets" in said
    assert {"search_subnets", "extract_seqnet", "export_seqnet", "write_card", *REPORT} == set(planned_rules(folder))


def test_sync_refuses_files_that_differ(clone: Path, tmp_path: Path) -> None:
    clone = copied(clone, tmp_path / "clone")
    for name in ("results/cpu/supernet.safetensors", "results/cpu/seqnet_A1.tflite"):
        damage(clone / name)
    (clone / "results/teacher.safetensors").unlink()
    done = call(clone, "spaceevo", "sync")
    assert done.returncode == 1
    for said in ("seqnet_A1.tflite (modified)", "cpu/supernet.safetensors (modified)", "teacher.safetensors (deleted)"):
        assert said in done.stderr
    run(clone, "dvc", "checkout", "--force")
    run(clone, "spaceevo", "sync")
    assert is_current(clone)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_damage_is_noticed_before_use_and_mended(clone: Path, tmp_path: Path) -> None:
    clone = copied(clone, tmp_path / "clone")
    supernet = clone / "results/pixel4/supernet.safetensors"
    before = supernet.read_bytes()
    damage(supernet)
    explained = json.loads(run(clone, "spaceevo", "explain", "--json", "results/pixel4/supernet.safetensors"))
    (entry,) = [one for one in explained["artifacts"] if one["path"] == "results/pixel4/supernet.safetensors"]
    assert not entry["current"] and "checksum differs" in entry["reasons"][0]
    set_param(clone, "search.val_images", 39)
    done = call(clone, "snakemake", "--cores", "1", "results/pixel4/seqnets.json")
    assert done.returncode != 0
    assert "pixel4/supernet.safetensors was changed after it was written" in done.stdout + done.stderr
    run(clone, "dvc", "checkout", "--force", "results/pixel4/supernet.safetensors")
    assert supernet.read_bytes() == before


def test_a_device_measured_elsewhere_is_measured_anew(finished: Path, tmp_path: Path) -> None:
    folder = cloned(finished, tmp_path / "clone")
    run(folder, "dvc", "pull")
    hook = make_hook(tmp_path / "hook", ANOTHER_CPU)
    there = ("env", f"PYTHONPATH={hook}:{folder}")
    said = run(folder, *there, "spaceevo", "sync")
    assert "profile_latency-cpu is to be redone" in said and "machine is another one" in said
    rules = run(folder, *there, "snakemake", "--dry-run").split("Job stats:")[1].split("total")[0]
    assert "profile_latency" in rules and "evolve_space" in rules
    assert "train_teacher" not in rules and "accuracy_lut" not in rules
    assert "is not current" not in run(folder, *there, "spaceevo", "explain", "results/pixel4/seqnet_A1.json")
    assert 'machine.cpu "' in run(folder, *there, "spaceevo", "explain", "results/cpu/latency_profile.parquet")


ANOTHER_CPU = """
import spaceevo.latency.machine as machine

inspect = machine.inspect_cpu
machine.inspect_cpu = lambda: {**inspect(), "model": "Another CPU"}
"""


@pytest.mark.slow
def test_branches_keep_their_bytes(clone: Path, tmp_path: Path) -> None:
    clone = copied(clone, tmp_path / "clone")
    figure = clone / "results/report/front_cpu.svg"
    first = figure.read_bytes()
    run(clone, "git", "checkout", "-q", "-b", "red")
    set_param(clone, "report.colour", "#aa0000")
    run(clone, "dvc", "repro")
    run(clone, "git", "add", "--all")
    run(clone, "git", "commit", "-qm", "Red")
    second = figure.read_bytes()
    assert second != first
    for branch, expected in (("-", first), ("red", second), ("-", first)):
        run(clone, "git", "checkout", "-q", branch)
        run(clone, "dvc", "checkout")
        run(clone, "spaceevo", "sync")
        assert figure.read_bytes() == expected
        assert is_current(clone)


@pytest.fixture
def ordinary_user() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A folder that an ordinary user owns, and what to put before commands so that they run as that user.

    To root, files that are read-only are not: what a cache hands out is then no test.
    """
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name), ()
            return
    if shutil.which("setpriv") is None:
        pytest.skip("the tests run as root, and there is no setpriv to run anything as somebody else")
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    # To read the environment of the tests, wherever it is; not to write.
    capability = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    words = ("setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", *capability, "env")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        user = (*words, f"HOME={name}")
        if subprocess.run([*user, sys.executable, "-c", "import spaceevo"], capture_output=True).returncode != 0:
            pytest.skip("the tests run as root from an environment that is closed to others")
        yield Path(name), user


@pytest.mark.slow
def test_two_clones_share_a_cache(finished: Path, ordinary_user: tuple[Path, tuple[str, ...]]) -> None:
    base, user = ordinary_user
    for name in ("project", "store"):
        shutil.copytree(finished.parent / name, base / name, symlinks=True)
    if user:
        subprocess.run(["chown", "--recursive", "nobody", base], check=True)
    for name in ("one", "two"):
        folder = base / name
        run(base, *user, "git", "clone", "-q", str(base / "project"), name)
        run(folder, *user, *SHARE, f"CACHE={base / 'cache'}", f"REMOTE={base / 'store'}")
        run(folder, *user, "dvc", "pull" if name == "one" else "checkout")
        run(folder, *user, "spaceevo", "sync")
        assert is_current(folder, *user)
        assert all(path.stat().st_mode & 0o200 for path in (folder / "results").rglob("*"))
        params = (folder / "params.yaml").read_text()
        run(folder, *user, "sh", "-c", "sed -i 's/dpi: 120/dpi: 90/' params.yaml")
        assert (folder / "params.yaml").read_text() != params
        run(folder, *user, "snakemake", "--cores", "1")
        assert planned_rules(folder, words=user) == {}
    run(folder, *user, "dvc", "commit", "--force")
    run(folder, *user, "sh", "-c", "sed -i 's/dpi: 90/dpi: 80/' params.yaml")
    run(folder, *user, "dvc", "repro")
    assert is_current(folder, *user)


# A remote over SSH


@pytest.fixture
def ssh_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Port and private key of an OpenSSH server on loopback, for the user that runs the tests."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() and os.geteuid() == 0 and shutil.which("apt-get"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["apt-get", "install", "-y", "-q", "openssh-server"], capture_output=True, timeout=120)
    if not Path(sshd).exists():
        pytest.skip("there is no OpenSSH server, and it cannot be installed")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"HostKey={folder}/host", f"AuthorizedKeysFile={folder}/authorized_keys", f"PidFile={folder}/pid",
        "StrictModes=no", "UsePAM=no", "PasswordAuthentication=no", "Subsystem=sftp internal-sftp",
    ]  # fmt: skip
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    words = [sshd, "-D", "-e", "-p", str(port), "-o", "ListenAddress=127.0.0.1", "-f", "/dev/null"]
    with subprocess.Popen([*words, *(word for option in options for word in ("-o", option))]) as server:
        wait_for_port(port, server)
        yield port, folder / "user"
        server.terminate()


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.skip("the OpenSSH server does not start here")


def test_a_remote_over_ssh(finished: Path, ssh_server: tuple[int, Path], tmp_path: Path) -> None:
    port, key = ssh_server
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/store"
    folders = [copied(finished, tmp_path / "one"), cloned(finished, tmp_path / "two")]
    for folder in folders:
        run(folder, *SHARE, f"REMOTE={url}")
        run(folder, "dvc", "remote", "modify", "--local", "team", "keyfile", str(key))
    run(folders[0], "dvc", "push")
    run(folders[1], "dvc", "pull")
    run(folders[1], "spaceevo", "sync")
    assert is_current(folders[1])


def test_dvc_never_links(finished: Path) -> None:
    """Links would make outputs read-only, which Snakemake refuses to write over."""
    said = run(finished, "dvc", "config", "cache.type")
    assert set(said.strip().split(",")) <= {"reflink", "copy"}
