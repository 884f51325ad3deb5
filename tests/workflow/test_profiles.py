"""Dry runs of the published settings under the profiles for clusters: which jobs, with which resources."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from workflow.micro import ROOT, make_project

PLUGINS = {
    "slurm": ("snakemake_executor_plugin_slurm",),
    "kubernetes": ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3"),
}
PROFILES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(module) is None for module in modules),
            reason=f"the plugins of this profile are not installed: pip install 'spaceevo[{name}]'",
        ),
    )
    for name, modules in PLUGINS.items()
]
STAGES, FIXED, DEVICES, NAMES = 6, 1, 3, 5  # of mobilew, searched and distilled besides; cpu, pixel4 and vnni; A0 to A4
JOBS = {
    "prepare_data": 1,
    "train_teacher": 1,
    "distill_blocks": STAGES,
    "distill_fixed_stage": FIXED,
    "measure_block_losses": STAGES + FIXED,
    "accuracy_lut": 1,
    "profile_latency": 1,
    "fit_latency_predictor": 1,
    "table_latency_predictor": 2,
    "evolve_space": DEVICES,
    "train_supernet_fp32": DEVICES,
    "train_supernet_int8": DEVICES,
    "search_subnets": DEVICES,
    "extract_seqnet": DEVICES * NAMES,
    "export_seqnet": DEVICES * NAMES * 2,
    "write_card": DEVICES * NAMES,
    "report": 1,
}
LOCAL = {"report_tables", "accuracy_lut", "table_latency_predictor", "workflow_facts", "machine_facts"}
GPUS = {"train_teacher": 1, "distill_blocks": 1, "distill_fixed_stage": 1} | {
    "train_supernet_fp32": 8,
    "train_supernet_int8": 8,
}
WORKERS = 16


class EmptyBucket(BaseHTTPRequestHandler):
    """As much of S3 as a dry run asks: there is the bucket, and nothing in it."""

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.strip("/").count("/") == 0 else 404)

    def do_GET(self) -> None:
        self._answer(200, b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>')

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyBucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def planned(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `snakemake -n` prints under a profile, by its name."""
    folder = make_project(tmp_path_factory.mktemp("project"), yaml.safe_load((ROOT / "params.yaml").read_text()))
    keys = {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "made-up", "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "made-up"}
    said: dict[str, str] = {}

    def dry_run(profile: str) -> str:
        if profile not in said:
            bucket = ["--default-storage-prefix", "s3://bucket/run", "--storage-s3-endpoint-url", endpoint]
            words = [sys.executable, "-m", "snakemake", "-n", "--workflow-profile", f"workflow/profiles/{profile}"]
            words += ["--configfile", str(ROOT / "params" / "imagenet.yaml")]
            done = subprocess.run(
                [*words, *(bucket if profile == "kubernetes" else [])],
                cwd=folder,
                env={**os.environ, **keys},
                capture_output=True,
                text=True,
                timeout=300,
            )
            said[profile] = done.stdout + done.stderr
            assert done.returncode == 0, said[profile][-5000:]
        return said[profile]

    return dry_run


def resources(said: str) -> dict[str, list[dict[str, str]]]:
    """Resources of each job, by rule, and its threads among them."""
    found: dict[str, list[dict[str, str]]] = {}
    for block in re.split(r"^(?=(?:local)?rule )", said, flags=re.MULTILINE)[1:]:
        name = re.match(r"(?:local)?rule (\w+):", block)[1]
        listed = re.search(r"^    resources: (.*)$", block, re.MULTILINE)[1]
        threads = re.search(r"^    threads: (\d+)$", block, re.MULTILINE)
        values = dict(each.partition("=")[::2] for each in re.split(r", (?=\w+=)", listed))
        found.setdefault(name, []).append(values | {"threads": threads[1] if threads else "1"})
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_all_jobs_are_planned(planned: Any, profile: str) -> None:
    counts = {name: len(jobs) for name, jobs in resources(planned(profile)).items() if name in JOBS}
    assert counts == JOBS


@pytest.mark.parametrize("profile", PROFILES)
def test_every_job_that_is_submitted_states_memory_and_time(planned: Any, profile: str) -> None:
    for name, jobs in resources(planned(profile)).items():
        if name not in LOCAL | {"all"}:
            assert all(int(job["mem_mb"]) >= 3000 and int(job["runtime"]) >= 60 for job in jobs), name


@pytest.mark.parametrize("profile", PROFILES)
def test_training_takes_gpus_and_memory_for_what_decodes(planned: Any, profile: str) -> None:
    found = resources(planned(profile))
    assert {name: int(jobs[0]["gpu"]) for name, jobs in found.items() if "gpu" in jobs[0]} == GPUS
    for name, gpus in GPUS.items():
        for job in found[name]:
            assert int(job["mem_mb"]) >= gpus * (3000 + 500 * WORKERS)
            assert int(job.get("cpus_per_task", job["threads"])) == (16 if gpus == 1 else 64)
            assert ("torch.distributed.run" in job["launcher"]) == (gpus > 1)
            assert profile != "kubernetes" or job["gpu_manufacturer"] == "nvidia"


@pytest.mark.parametrize("profile", PROFILES)
def test_latency_is_not_measured_on_more_cores_than_there_are(planned: Any, profile: str) -> None:
    (job,) = resources(planned(profile))["profile_latency"]
    assert job["threads"] == "4"
    assert profile != "slurm" or job["slurm_extra"] == "--exclusive"


@pytest.mark.parametrize("profile", PROFILES[1:])
def test_pods_are_limited_to_what_they_ask_for(planned: Any, profile: str) -> None:
    found = resources(planned(profile))
    assert all(job["scale"] == "0" for name, jobs in found.items() if name not in LOCAL | {"all"} for job in jobs)
    outputs = re.findall(r"^    output: (.*)$", planned(profile), re.MULTILINE)
    assert outputs and all(path.startswith("s3://bucket/run/") for path in ", ".join(outputs).split(", "))


@pytest.mark.parametrize("profile", PLUGINS)
def test_a_profile_names_rules_that_there_are(profile: str) -> None:
    settings = yaml.safe_load((ROOT / "workflow" / "profiles" / profile / "config.yaml").read_text())
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    rules = dict(
        re.findall(
            r"^ *(?:use rule \w+ as |rule )(\w+)(?: with)?:\n(.*?)(?=^ *(?:use )?rule |\Z)",
            text,
            re.MULTILINE | re.DOTALL,
        )
    )
    assert rules.keys() >= {*settings["set-resources"], *settings["set-threads"]}
    alone = {name for name, body in rules.items() if "threads: workflow.cores" in body}
    assert alone <= settings["set-threads"].keys()  # or they would ask for all that the profile allows in sum
