"""`spaceevo score` and `spaceevo import-lut`: the published figures, and one sentence where something is wrong."""

import json
from pathlib import Path

import pytest
from made import REFERENCE
from typer.testing import CliRunner

from spaceevo.artifacts import read_table
from spaceevo.cli import app
from spaceevo.config import load_params
from spaceevo.search.lut import LUT_KIND

PARAMS = Path(__file__).parents[1] / "params.yaml"
FIXED = {
    "onnxw": ["--fixed-ms", "160=0.40", "--fixed-ms", "192=0.55", "--fixed-ms", "224=0.75"],
    "mobilew": ["--fixed-ms", "160=1.5", "--fixed-ms", "192=2.1", "--fixed-ms", "224=2.8"],
}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def table(hyperspace):
    folder = REFERENCE / "block_lut" / hyperspace
    if not folder.is_dir():
        pytest.skip(f"no published table in {folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "hyperspace", "budgets", "expected"),
    [
        ("spaceevo@vnni", "onnxw", (10,), 0.397),
        ("spaceevo@pixel4", "mobilew", (15, 20), 0.747),
        ("spaceevo@pixel4-medium", "mobilew", (15, 20), 0.760),
    ],
)
def test_published_spaces_have_their_published_scores(name, hyperspace, budgets, expected):
    """Those of the full tables; a tenth of the lines is left out here."""
    arguments = [argument for budget in budgets for argument in ("--budget", budget)]
    found = run(
        "score", name, "--lut", table(hyperspace), *arguments, "--mode", "independent", *FIXED[hyperspace], "--json"
    )
    content = json.loads(found.stdout)
    assert content["score"] == pytest.approx(expected, rel=0.003)
    assert 0 < content["standard_error"] <= 0.003 * content["score"]
    assert [entry["budget_ms"] for entry in content["budgets"]] == list(budgets)


def test_an_imported_lut_scores_as_its_folder_does(tmp_path):
    folder, path = table("onnxw"), tmp_path / "lut.parquet"
    imported = run("import-lut", folder, "--hyperspace", "onnxw", "--output", path)
    assert imported.exit_code == 0 and "118,768 rows of onnxw" in imported.stdout
    assert len(read_table(path, LUT_KIND)) == 118_768
    scores = [
        run("score", "onnxw-151122-023231", "--lut", lut, "--budget", 10, "--device", "vnni", "--json").stdout
        for lut in (path, folder)
    ]
    assert scores[0] == scores[1] and json.loads(scores[0])["mode"] == "consistent"
    shown = run("score", "onnxw-151122-023231", "--lut", path, "--budget", 10, "--device", "vnni").stdout
    assert "Q-T score of onnxw-151122-023231 (consistent, inverse, 100000 samples)" in shown and "10 ms" in shown


def test_a_score_as_the_workflow_has_it(monkeypatch):
    """By params.yaml and what is laid over it, of which an option may turn one."""
    monkeypatch.chdir(PARAMS.parent)
    asked = ["score", "onnxw-151122-023231", "--lut", table("onnxw"), "--budget", 10, "--device", "vnni", "--json"]
    stated = load_params(PARAMS).space.score
    options = ["--samples", stated.samples, "--quality", stated.quality]
    found = json.loads(run(*asked, "--from-params").stdout)
    assert found == json.loads(run(*asked, *options).stdout)
    assert (found["quality"], found["samples"]) == (stated.quality, stated.samples) != ("inverse", 100_000)
    inverse = json.loads(run(*asked, "--from-params", "--quality", "inverse").stdout)
    assert inverse["quality"] == "inverse" and inverse["score"] != found["score"]
    more = json.loads(run(*asked, "--from-params", "--configfile", "params/comparison.yaml").stdout)
    assert more["samples"] == 100_000 and more["quality"] == stated.quality
    without = run(*asked[:6], "--from-params")
    assert without.exit_code == 1 and "space.score.latency is predicted: name its --device" in without.stderr
    published = run(*asked, "--from-params", "--configfile", "params/published-vnni.yaml")
    assert published.exit_code == 1 and "space.score.latency is table: leave out --device" in published.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "onnxw-151122-023231", "--budget", "10", "--fixed-ms", "160:1"], "--fixed-ms '160:1'"),
        (["score", "onnxw-151122-023231", "--budget", "10", "--fixed-ms", "160=nan"], "--fixed-ms '160=nan'"),
        (["score", "onnxw-151122-023231", "--budget", "10", "--fixed-ms", "160=1", "--fixed-ms", "160=2"], "twice"),
        (["score", "onnxw-151122-023231", "--budget", "-1"], "budget of -1 ms"),
        (["score", "onnxw-151122-023231", "--budget", "inf"], "budget of inf ms"),
        (["score", "onnxw-951122-023231", "--budget", "10"], "onnxw-951122-023231"),
        (["import-lut", "--hyperspace", "onnxw"], "stage<s>_<type>_<window>.csv"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, arguments, said):
    where = [tmp_path] if arguments[0] == "import-lut" else ["--lut", tmp_path / "lut.parquet"]
    found = run(*arguments, *where)
    assert found.exit_code == 1 and said in found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_a_table_of_another_hyperspace_is_refused():
    found = run("score", "spaceevo@pixel4", "--lut", table("onnxw"), "--budget", 10)
    assert found.exit_code == 1 and "mobilew" in found.stderr and "stage1_0_0.csv" in found.stderr


def test_an_imported_table_of_another_hyperspace_is_refused(tmp_path):
    path = tmp_path / "lut.parquet"
    assert run("import-lut", table("mobilew"), "--hyperspace", "mobilew", "--output", path).exit_code == 0
    found = run("score", "spaceevo@vnni", "--lut", path, "--budget", 10, "--mode", "independent", *FIXED["onnxw"])
    assert found.exit_code == 1 and "which onnxw does not have" in found.stderr


def test_a_budget_out_of_reach_states_the_smallest_latency():
    found = run("score", "spaceevo@vnni", "--lut", table("onnxw"), "--budget", 0.1, "--device", "vnni")
    assert found.exit_code == 1 and "smallest latency" in found.stderr
