"""Command lines of scripts: typed options, positional lists, sections as JSON, and errors as one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from spaceevo.config import Recipe
from spaceevo.errors import ArtifactError, SpaceEvoError
from spaceevo.scripting import clear_errors, run

RECIPE = '{"epochs": 0.5, "batch_size": 4, "learning_rate": 0.1}'


@pytest.fixture
def call(monkeypatch):
    """Run a main with these arguments; gives its exit code."""

    def calling(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            run(main)
        return caught.value.code or 0

    return calling


def test_parameters_are_options_and_lists_are_arguments(call):
    seen = []

    def main(names: list[str], output: Path, seed: int, share: float, recipe: Recipe) -> None:
        seen.append((names, output, seed, share, recipe))

    options = ("--output", "a/b.json", "--seed", "3", "--share", "0.25", "--recipe", RECIPE)
    assert call(main, "one", "two", *options) == 0
    assert seen == [(["one", "two"], Path("a/b.json"), 3, 0.25, Recipe(epochs=0.5, batch_size=4, learning_rate=0.1))]


def test_underscores_are_dashes_and_all_is_required(call, capsys):
    def main(checkpoint_steps: int, seed: int) -> None: ...

    assert call(main, "--checkpoint-steps", "3", "--seed", "1") == 0
    assert call(main, "--checkpoint-steps", "3") == 2
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [('{"epochs": 0.5, "batch_size": 4}', "learning_rate"), ('{"epoch": 1}', "epoch"), ("{", "Recipe")],
)
def test_a_wrong_section_is_named(call, capsys, text, named):
    def main(recipe: Recipe) -> None:
        pytest.fail("the script ran")

    assert call(main, "--recipe", text) == 2
    message = capsys.readouterr().err
    assert "--recipe" in message and named in message and "Traceback" not in message


def test_the_docstring_is_the_help(call, capsys):
    def main(seed: int) -> None:
        """Make something of a seed."""

    assert call(main, "--help") == 0
    shown = capsys.readouterr().out
    assert "Make something of a seed." in shown and "--seed" in shown


def failing(error):
    def main(seed: int) -> None:
        raise error

    return main


def test_an_error_of_the_users_is_one_sentence(call, capsys):
    assert call(failing(ArtifactError("lut.parquet does not exist: run snakemake.")), "--seed", "1") == 1
    streams = capsys.readouterr()
    assert streams.err == "error: lut.parquet does not exist: run snakemake.\n" and streams.out == ""


def test_a_traceback_is_shown_on_demand(call, monkeypatch):
    monkeypatch.setenv("SPACEEVO_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["script.py", "--seed", "1"])
    with pytest.raises(ArtifactError):
        run(failing(ArtifactError("x")))


def test_an_interruption_says_how_to_go_on(call, capsys):
    assert call(failing(KeyboardInterrupt()), "--seed", "1") == 130
    assert "run again to go on" in capsys.readouterr().err


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--seed", "1"])
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()))


def test_errors_can_be_made_clear_without_a_command_line(capsys):
    @clear_errors
    def main(x):
        """Documented."""
        if x:
            raise SpaceEvoError("No.")

    main(False)
    with pytest.raises(typer.Exit) as caught:
        main(True)
    assert caught.value.exit_code == 1 and capsys.readouterr().err == "error: No.\n"
    assert main.__doc__ == "Documented."


SCRIPTS = sorted((Path(__file__).parents[1] / "workflow" / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_small_and_know_neither_snakemake_nor_params(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 80 and "run(main)" in text and '"""' in text
    assert "snakemake" not in text.lower() and "load_params" not in text and "params.yaml" not in text


LONG_SCRIPT = """
import time
from pathlib import Path
from spaceevo.scripting import run

def main(started: Path) -> None:
    started.touch()
    time.sleep(120)

run(main)
"""


def test_a_script_ends_with_the_process_that_started_it(tmp_path):
    script, started = tmp_path / "script.py", tmp_path / "started"
    script.write_text(LONG_SCRIPT)
    with subprocess.Popen(["sleep", "120"]) as parent:
        environment = {**os.environ, "SPACEEVO_PARENT": str(parent.pid)}
        with subprocess.Popen([sys.executable, script, "--started", started], env=environment) as child:
            deadline = time.monotonic() + 60
            while not started.exists() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert child.poll() is None
            parent.kill()
            parent.wait()
            assert child.wait(timeout=30) == 1
