"""Names that stand for codes of spaces and subnets: the published ones, and a project's own (YAML)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from spaceevo.errors import CodeError

SHIPPED = Path(__file__).parent / "names.yaml"
PROJECT = Path("names.yaml")  # in the working directory: a project's own
_FORM = "it holds spaces: {name: code} and subnets: {name: {space: …, subnet: code}}"


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        space: code of its space.
        subnet: code of its subnet, or None where the name is that of a space.
        source: the file that says so.
    """

    name: str
    space: str
    subnet: str | None
    source: Path

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Let a `CodeError` within the block name the file that gives this name a wrong code."""
        try:
            yield
        except CodeError as error:
            raise CodeError(f"{self.source} gives {self.name} a wrong code: {error}") from None


def is_name(text: str) -> bool:
    """Whether a text is a name and no code: names have an '@'."""
    return "@" in text


def find_name(name: str) -> Named:
    """What `name` stands for.

    Raises:
        CodeError: there is no such name (the sentence lists names like it), or a file of names is wrong.
    """
    names, name = known_names(), name.strip()
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=3) or list(names)
    raise CodeError(f"There is no name {name!r}: use one of {', '.join(near)}, or add it to {PROJECT}.")


def known_names() -> dict[str, Named]:
    """Every name: the shipped ones, then those of `names.yaml` in the working directory.

    Raises:
        CodeError: a file of names is not of their form, or a project's own name is a shipped one.
    """
    shipped = _load(SHIPPED, 0)
    if not PROJECT.is_file():
        return dict(shipped)
    own = _load(PROJECT.resolve(), PROJECT.stat().st_mtime_ns)
    if shadowed := sorted(shipped.keys() & own.keys()):
        raise CodeError(f"{PROJECT} names {shadowed[0]}, a name that is shipped already: choose another one.")
    return {**shipped, **own}


@lru_cache(maxsize=8)
def _load(path: Path, modified_ns: int) -> Mapping[str, Named]:
    try:
        declared = yaml.safe_load(path.read_text()) or {}
        return {named.name: named for named in _parse(path, declared)}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CodeError(f"The file of names {path} is not valid ({reason}): {_FORM}.") from None


def _parse(path: Path, declared: dict[str, Any]) -> Iterator[Named]:
    parts = [declared.get(key) or {} for key in ("spaces", "subnets")] if isinstance(declared, dict) else [None]
    if not all(isinstance(part, dict) and all(isinstance(name, str) for name in part) for part in parts):
        raise ValueError("it, its spaces and its subnets must be mappings of names")
    if unknown := set(map(str, declared)) - {"spaces", "subnets"}:
        raise ValueError(f"there are unknown keys {sorted(unknown)}")
    own, subnets = declared.get("spaces") or {}, declared.get("subnets") or {}
    if twice := own.keys() & subnets.keys():
        raise ValueError(f"{twice.pop()} names a space and a subnet")
    for name, code in own.items():
        yield Named(_checked(name), _code(name, code), None, path)
    shipped = {} if path == SHIPPED else {named.name: named.space for named in _load(SHIPPED, 0).values()}
    for name, entry in subnets.items():
        if not isinstance(entry, dict) or entry.keys() != {"space", "subnet"}:
            raise ValueError(f"{name} stands for {entry!r}, which is not {{space: …, subnet: …}}")
        space = str(entry["space"])
        if is_name(space) and space not in {**shipped, **own}:
            raise ValueError(f"{name} is of the space {space}, which has no name here")
        code = _code(name, {**shipped, **own}.get(space, space))
        yield Named(_checked(name), code, _code(name, entry["subnet"]), path)


def _checked(name: str) -> str:
    if not is_name(name) or name != name.strip():
        raise ValueError(f"{name!r} has no '@', which tells names from codes")
    return name


def _code(name: str, code: Any) -> str:
    if is_name(str(code)):
        raise ValueError(f"{name} stands for {code}, which is itself a name: give its code")
    return str(code)
