"""The comparison of spaces in words and figures, on outcomes whose conclusion is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spaceevo.artifacts import Record, read_table, write_json, write_table
from spaceevo.config import ReportParams
from spaceevo.errors import ArtifactError
from spaceevo.report.comparison import Comparison, Contender, read_comparison, write_comparison
from spaceevo.search.comparison import BEST, OUTCOMES_KIND, RANDOM, uniform_space
from spaceevo.space import load_hyperspace, parse_space

HYPERSPACE = load_hyperspace("tiny")
EVOLVED_SPACE = "tiny-4664-1222"
BUDGETS = [0.1, 0.2, 0.3, 0.4, 0.5]


def run_of(code: str, accuracies: list[float]) -> pd.DataFrame:
    """Outcomes of a space with these test accuracies, of A0 onwards; NaN: out of reach."""
    rows = []
    for number, accuracy in enumerate(accuracies):
        if np.isnan(accuracy):
            continue
        rows.append((BEST, number, BUDGETS[number], "best", BUDGETS[number], accuracy, accuracy))
        rows += [
            (RANDOM, number, BUDGETS[number], f"r{k}", BUDGETS[number], accuracy - 0.01 * k, np.nan) for k in range(4)
        ]
    names = ["kind", "budget", "budget_ms", "subnet", "latency_ms", "val_accuracy", "test_accuracy"]
    return pd.DataFrame(rows, columns=names).assign(space=code)


def written(folder: Path, outcomes: dict[str, list[list[float]]]) -> Comparison:
    """A comparison read back from files: by name of the folder, the accuracies of each seed."""
    write_json(folder / "space.json", "space", {"space": EVOLVED_SPACE}, Record({}))
    paths = []
    for name, runs in outcomes.items():
        code = EVOLVED_SPACE
        if name != "evolved":
            code = uniform_space(HYPERSPACE, int(name.removeprefix("uniform"))).code
            write_json(folder / "comparison" / name / "space.json", "space", {"space": code}, Record({}))
        for seed, accuracies in enumerate(runs):
            paths.append(folder / "comparison" / name / f"outcomes_{seed}.parquet")
            write_table(paths[-1], OUTCOMES_KIND, run_of(code, accuracies), Record({}, seed))
    return read_comparison("cpu", folder / "space.json", paths)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    nan = float("nan")
    return written(
        tmp_path,
        {
            "evolved": [[0.80, 0.84, 0.86, 0.90, 0.92], [0.82, 0.86, 0.88, 0.92, 0.94]],
            "uniform1": [[0.78, 0.82, 0.88, 0.90, 0.90], [0.78, 0.82, 0.88, 0.90, 0.90]],
            "uniform5": [[nan, nan, 0.60, 0.99, 0.99], [nan, nan, 0.60, 0.99, 0.99]],
        },
    )


def test_outcomes_of_another_space_or_of_other_budgets_are_not_taken(comparison: Comparison, tmp_path: Path) -> None:
    """The evolution may have found another space since, and seeds that are no longer asked for lie about."""
    paths = sorted((tmp_path / "comparison").glob("*/outcomes_*.parquet"))
    assert len(read_comparison("cpu", tmp_path / "space.json", paths).evolved.runs) == 2
    table = read_table(paths[0], OUTCOMES_KIND)
    write_table(paths[0], OUTCOMES_KIND, table.assign(budget_ms=2 * table["budget_ms"]), Record({}, 0))
    with pytest.raises(ArtifactError, match=r"outcomes_1\.parquet .* has other budgets"):
        read_comparison("cpu", tmp_path / "space.json", paths)
    write_table(paths[0], OUTCOMES_KIND, table, Record({}, 0))
    write_json(tmp_path / "space.json", "space", {"space": "tiny-1111-1222"}, Record({}))
    with pytest.raises(ArtifactError, match=r"outcomes_0\.parquet is not of tiny-1111-1222"):
        read_comparison("cpu", tmp_path / "space.json", paths)


def test_a_space_of_several_block_types_is_named_after_them() -> None:
    contender = Contender(parse_space("tiny-5501-0000"), False, ())
    assert contender.name == "fused_mbconv_res, mobilenetv1_dual, mobilenetv2_res"


def test_figures_by_hand(comparison: Comparison) -> None:
    assert comparison.budgets_ms == tuple(BUDGETS)
    assert comparison.best_uniform.name == "mobilenetv2_res"  # the other misses two budgets
    ahead, errors = zip(*comparison.advantages, strict=True)
    assert ahead == pytest.approx([0.03, 0.03, -0.01, -0.08, -0.06])
    assert errors == pytest.approx([0.01] * 5)
    advantage, error = comparison.advantage
    assert advantage == pytest.approx(0.874 - 0.856)
    assert error == pytest.approx(0.01)  # means 0.864 and 0.884 over the seeds, and no variation of the other
    assert comparison.evolved.errors(0) == pytest.approx(
        sorted([*(0.2 + 0.01 * np.arange(4)), *(0.18 + 0.01 * np.arange(4))])
    )


def test_the_summary_says_so(comparison: Comparison, tmp_path: Path) -> None:
    contenders = (comparison.evolved, *comparison.uniform)
    scores = {contender.space.code: 0.5 + 0.1 * number for number, contender in enumerate(contenders)}
    write_comparison(comparison, scores, ReportParams(), tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "+1.80 ± 1.00 points from the best uniform one, mobilenetv2_res" in text
    assert "A0 +3.00 ± 1.00, A1 +3.00 ± 1.00, A2 -1.00 ± 1.00, A3 -8.00 ± 1.00, A4 -6.00 ± 1.00 points" in text
    lines = [line for line in text.splitlines() if line.startswith("| `tiny")]
    assert [line.split("|")[2].strip() for line in lines] == ["**evolved**", "mobilenetv2_res", "fused_mbconv_res"]
    assert lines[2].split("|")[4:6] == [" - ", " - "]
    assert "| 0.500 | 81.00 ± 1.41 |" in lines[0]
    figures = {path.name for path in tmp_path.glob("*.*") if path.suffix in (".png", ".svg")}
    assert figures == {f"{name}.{suffix}" for name in ("accuracies", "errors") for suffix in ("png", "svg")}
    for name in ("accuracies", "errors"):
        assert f"({name}.png)" in text


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (1, 2), (2, 1)])
def test_one_seed_has_no_error(tmp_path: Path, ours: int, theirs: int) -> None:
    one = written(tmp_path, {"evolved": [[0.8] * 5] * ours, "uniform0": [[0.7] * 5] * theirs})
    advantage, error = one.advantage
    assert advantage == pytest.approx(0.1) and np.isnan(error)
    write_comparison(one, {EVOLVED_SPACE: 1.0, one.uniform[0].space.code: 0.5}, ReportParams(), tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "is +10.00 points from" in text and "nan" not in text
