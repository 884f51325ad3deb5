"""Parameters of rules that Snakemake records together with their names.

Snakemake keeps the representation of each parameter beside an output, and no name. A `Value` represents itself as
`name=value`, so that `snakemake -n` and `spaceevo explain` can say which one has changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


class Value(str):
    """The text of a parameter, as a script takes it, and its name: its key in params.yaml where it has one.

    Attributes:
        keys: those of params.yaml that it holds: its name, or what it has of that section.
    """

    name: str
    keys: tuple[str, ...]

    def __new__(cls, name: str, value: Any, without: Collection[str] = ()) -> Value:
        """`value` as text: a section and a collection as JSON, anything else as `str` has it.

        Args:
            without: fields that are left out of a section.
        """
        keys: tuple[str, ...] = (name,)
        if without:
            value = value.model_dump(mode="json", exclude=set(without))
            keys = tuple(f"{name}.{field}" for field in value)
        self = super().__new__(cls, _text(value))
        self.name, self.keys = name, keys
        return self

    def __repr__(self) -> str:
        return f"{self.name}={self!s}"


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    return str(value)


def recorded_values(recorded: list[str]) -> dict[str, Any]:
    """What Snakemake recorded of a job's parameters, by name; JSON is parsed."""
    named = dict(text.partition("=")[::2] for text in recorded if "=" in text)
    return {name: parsed(text) for name, text in named.items()}


def parsed(text: str) -> Any:
    """The value behind the text of a parameter: JSON where it is that, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def changed_values(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every leaf in which two values differ; None where one of them lacks it."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for name in sorted({*old, *new})
            for change in changed_values(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if old == new else [(key, old, new)]
