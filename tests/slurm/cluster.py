"""A real SLURM of one node, on this machine alone, for as long as a test runs.

    python tests/slurm/cluster.py install    # Debian's packages; as root

Nothing of the system's own SLURM is used or changed: keys, ports, state and logs are in a folder of the test.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
# What SLURM may hand out. That the machine has as much is not asked; GPUs are files instead of devices.
CPUS, GPUS, MEMORY_MB = 64, 8, 200_000
START_S = 60

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def find_program(name: str) -> str | None:
    """Its path; daemons are where a user's path may not lead."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def why_not() -> str | None:
    """Why no SLURM can be started here; None where it can."""
    missing = [name for name in PROGRAMS if find_program(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed; as root: python tests/slurm/cluster.py install"
    return None


def install() -> None:
    """Install Debian's packages, without starting their services."""
    no_services = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update"], env=no_services, check=True)
    subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES], env=no_services, check=True)


@contextmanager
def single_node(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the environment in which SLURM's commands reach a cluster of one node, which ends with the block."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    _write_configuration(folder, host)
    _write_srun(folder)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(folder, environment, "munged", *_munge_options(folder)))
        _wait(folder, "munged", lambda: (folder / "munge.socket").exists())
        daemons.append(_start(folder, environment, "slurmctld", "-D"))
        daemons.append(_start(folder, environment, "slurmd", "-D", "-N", host))
        _wait(folder, "slurmd", lambda: _output(environment, "sinfo", "--noheader", "--format=%T") == "idle")
        yield environment
    finally:
        if len(daemons) == 3:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, capture_output=True, timeout=60)
            _wait_for_end(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()


def job_of(environment: dict[str, str], rule: str) -> str | None:
    """The number of the running job of a rule, if there is one."""
    for line in _output(environment, "squeue", "--noheader", "--states=RUNNING", "--format=%i|%k").splitlines():
        number, _, comment = line.partition("|")
        if rule in comment:
            return number
    return None


def _write_configuration(folder: Path, host: str) -> None:
    controller_port, node_port = _free_ports(2)
    text = CONFIGURATION.format(
        host=host,
        folder=folder,
        controller_port=controller_port,
        node_port=node_port,
        user=getpass.getuser(),
        cpus=CPUS,
        memory_mb=MEMORY_MB,
        gpus=GPUS,
    )
    (folder / "slurm.conf").write_text(text)
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)


def _write_srun(folder: Path) -> None:
    """An srun that knows the configuration: Snakemake's executor takes SLURM's variables out of its environment."""
    program = folder / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {find_program("srun")} "$@"\n')
    program.chmod(0o755)


def _munge_options(folder: Path) -> list[str]:
    files = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
    options = [f"--{name}-file={folder}/munge.{ending}" for name, ending in files.items() if name != "socket"]
    return ["--foreground", "--force", f"--socket={folder}/munge.socket", *options]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _start(folder: Path, environment: dict[str, str], name: str, *options: str) -> subprocess.Popen[bytes]:
    program = find_program(name)
    assert program is not None
    with (folder / f"{name}.out").open("wb") as out:
        return subprocess.Popen([program, *options], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)


def _output(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def _wait(folder: Path, name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start: {(folder / f'{name}.out').read_text()[-2000:]}")
        time.sleep(0.2)


def _wait_for_end(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_S
    while _output(environment, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.5)


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(__doc__)
    install()
