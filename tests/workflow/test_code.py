"""Which modules a script uses, read from its imports; and what of a module counts."""

from pathlib import Path

import pytest

from spaceevo.errors import SpaceEvoError
from spaceevo.workflow import code
from spaceevo.workflow.code import code_digests, joint_digest

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"

FILES = {
    "__init__.py": "__version__ = '1'\n",
    "deep.py": "DEEP = 1\n",
    "lazy.py": "def f():\n    from made.deep import DEEP\n    return DEEP\n",
    "typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.other import OTHER\nTYPED = 1\n",
    "other.py": "OTHER = 1\n",
    "parts/__init__.py": "from made.parts.one import ONE\nfrom made.parts.two import TWO\nOWN = 3\n",
    "parts/one.py": "ONE = 1\n",
    "parts/two.py": "TWO = 2\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `made` in the place of spaceevo."""
    root = tmp_path / "made"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", root)
    monkeypatch.setattr(code, "PACKAGE", "made")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for cached in (code._source, code._tree, code._module_path):
        cached.cache_clear()


def used(folder: Path, text: str) -> set[str]:
    script = folder / "script.py"
    script.write_text(text)
    forget()
    return set(code_digests(script)) - {"script.py"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import json\n", set()),
        ("import made\nmade.__version__\n", set()),
        ("import made.deep\n", {"made.deep"}),
        ("from made import deep\n", {"made.deep"}),
        ("from made.lazy import f\n", {"made.lazy", "made.deep"}),
        ("from made.typed import TYPED\n", {"made.typed"}),
        ("from made.parts import ONE\n", {"made.parts.one"}),
        ("from made.parts import two\n", {"made.parts.two"}),
        ("from made.parts import OWN\n", {"made.parts", "made.parts.one", "made.parts.two"}),
        ("try:\n    import made.other\nexcept ImportError:\n    from made import deep\n", {"made.other", "made.deep"}),
    ],
)
def test_imports_are_followed(package: Path, text: str, expected: set[str]) -> None:
    assert used(package, text) == expected


BASE = 'def f(x):\n    """Doc."""\n    return "# no comment", x  # a comment\n'


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""A module."""\n\n' + BASE, True),
        (BASE.replace("Doc.", "Other words,\n    on two lines."), True),
        (BASE.replace("# a comment", "# another"), True),
        (BASE.replace("# no comment", "# one"), False),
        (BASE.replace("return", "\n    return"), True),
        (BASE.replace("x  #", "x + 1  #"), False),
        (BASE + "y = 'a string'\n", False),
    ],
)
def test_only_what_runs_counts(package: Path, text: str, same: bool) -> None:
    script = package / "script.py"
    script.write_text(BASE)
    forget()
    before = code_digests(script)
    script.write_text(text)
    forget()
    assert (code_digests(script) == before) == same
    assert (joint_digest(code_digests(script)) == joint_digest(before)) == same


def test_a_script_that_is_no_python_is_an_error(package: Path) -> None:
    (package / "script.py").write_text("x = (\n")
    with pytest.raises(SpaceEvoError, match=r"script\.py, line 1, is not Python"):
        code_digests(package / "script.py")


def test_each_script_uses_its_own_part_of_the_package() -> None:
    uses = {script.stem: set(code_digests(script)) for script in SCRIPTS.glob("*.py")}
    assert "spaceevo.search.evolve" in uses["evolve_space"]
    assert "spaceevo.train.loop" in uses["train_teacher"] and "spaceevo.train.loop" not in uses["evolve_space"]
    assert "spaceevo.export.tflite" in uses["export_seqnet"] and "spaceevo.export.tflite" not in uses["train_teacher"]
    assert not any(name.startswith(("spaceevo.cli", "spaceevo.workflow")) for names in uses.values() for name in names)
