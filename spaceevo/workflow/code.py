"""Which modules of spaceevo a script uses, and a digest of each: a change there, and only there, redoes its rule.

Imports are read from the source, without running it: those inside functions count, those for type checkers do not. A
name that a package only hands on counts for the module that defines it. Comments, docstrings and blank lines are no
part of a digest.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import spaceevo
from spaceevo.errors import SpaceEvoError

PACKAGE = spaceevo.__name__
ROOT = Path(spaceevo.__file__).parent
DIGEST_LENGTH = 12

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_digests(script: Path | str) -> dict[str, str]:
    """Digest of the script, under its file name, and of each module of spaceevo that it uses, by module.

    Raises:
        SpaceEvoError: a file is no Python.
    """
    script = Path(script)
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _source(path).uses
    names = {path: script.name if path == script else _module_name(path) for path in found}
    return {names[path]: _source(path).digest for path in sorted(found, key=names.__getitem__)}


def joint_digest(digests: dict[str, str]) -> str:
    """One digest of all."""
    return _short("".join(f"{name} {digest}\n" for name, digest in sorted(digests.items())))


@dataclass(frozen=True)
class _Source:
    """A file: its digest, and the files of the modules it imports."""

    digest: str
    uses: tuple[Path, ...]


@cache
def _source(path: Path) -> _Source:
    nodes = list(_run_nodes(_tree(path)))
    return _Source(_short(_bare(path.read_text(), nodes)), tuple(_used(nodes)))


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except SyntaxError as error:
        raise SpaceEvoError(f"{path}, line {error.lineno}, is not Python: {error.msg}.") from None


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _run_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, but those that only type checkers see; expressions are left out."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody", "cases"):
            waiting += [child for child in getattr(node, inner, ()) if not _for_type_checkers(child)]


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _bare(text: str, nodes: list[ast.AST]) -> str:
    """The source without comments, docstrings, blank lines and trailing space."""
    lines = text.splitlines()
    if "#" in text:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                number, column = token.start
                lines[number - 1] = lines[number - 1][:column]
    for node in nodes:
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            for number in range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1):
                lines[number - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _used(nodes: list[ast.AST]) -> Iterator[Path]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for alias in node.names:
                yield from _defining(node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                path = _module_path(alias.name)
                if alias.name != PACKAGE and path is not None:
                    yield path


def _defining(module: str, name: str) -> Iterator[Path]:
    """The file that `name` of a module comes from: a submodule, what a package hands on, or the module itself."""
    submodule = _module_path(f"{module}.{name}")
    if submodule is not None:
        yield submodule
        return
    path = _module_path(module)
    if path is None:
        return
    if path.name == "__init__.py":
        for node in _tree(path).body:
            if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
                yield from _defining(node.module, name)
                return
    yield path


@cache
def _module_path(name: str) -> Path | None:
    """The file of a module of spaceevo; None where there is none of that name."""
    first, *rest = name.split(".")
    if first != PACKAGE:
        return None
    base = ROOT.joinpath(*rest)
    candidates = (base.with_suffix(".py"), base / "__init__.py") if rest else (base / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _module_name(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return ".".join((PACKAGE, *parts))
