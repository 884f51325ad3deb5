"""Write docs/configuration.md and params.schema.json from the typed parameters in spaceevo/config.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.config import json_schema

ROOT = Path(__file__).parents[1]

Schema = Mapping[str, Any]

INTRODUCTION = """\
# Configuration

Every key of `params.yaml`. This page and `params.schema.json` are written by `python tools/write_configuration.py`
from the models in `spaceevo/config.py`; `spaceevo doctor` checks a file against them.

A default applies where a key is left out; a required key has none. Unknown keys and values out of range are errors.
A meaning goes on from its key: "`batch_size`: images per step". Units are in the key (`_s`, `_deg`) or in the meaning;
a share is a number from 0 to 1.
"""


def sections(schema: Schema) -> dict[str, list[str]]:
    """The places of each model that params.yaml is made of, by the model's name; the root is the place "".

    Nested sections follow the section that holds them.
    """
    places: dict[str, list[str]] = {}

    def visit(model: str, place: str) -> None:
        places.setdefault(model, []).append(place)
        for key, declared in properties(schema, model).items():
            path = f"{place}.{key}" if place else key
            if (nested := model_of(declared)) is not None:
                visit(nested, path)
            elif (nested := model_of(declared.get("additionalProperties") or {})) is not None:
                visit(nested, f"{path}.<name>")

    visit("", "")
    return places


def properties(schema: Schema, model: str) -> dict[str, Schema]:
    """The keys of a model, or of the root where the name is empty."""
    found: dict[str, Schema] = definition(schema, model)["properties"]
    return found


def definition(schema: Schema, model: str) -> Schema:
    found: Schema = schema["$defs"][model] if model else schema
    return found


def model_of(declared: Schema) -> str | None:
    """The model that a key is a section of, if it is one."""
    reference: str | None = declared.get("$ref")
    return None if reference is None else reference.rpartition("/")[2]


def kind(declared: Schema) -> str:
    """Type and range of a value, in words."""
    if "anyOf" in declared:
        return " or ".join(kind(option) for option in declared["anyOf"])
    if "enum" in declared:
        return ", ".join(f"`{value}`" for value in declared["enum"])
    match declared["type"]:
        case "array" if "prefixItems" in declared:
            items = declared["prefixItems"]
            return f"list of {len(items)} ({kind(items[0])})"
        case "array":
            least = f" of {declared['minItems']} or more" if "minItems" in declared else ""
            return f"list{least} ({kind(declared['items'])})"
        case "object":
            return "sections by name"
        case "string" if "pattern" in declared:
            return f"text matching `{declared['pattern']}`"
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "integer":
            return f"integer{limits(declared)}"
    return f"number{limits(declared)}"


def limits(declared: Schema) -> str:
    """The range of a number, in signs."""
    low = next((f"{sign} {declared[key]:g}" for key, sign in _LOW.items() if key in declared), None)
    high = next((f"{sign} {declared[key]:g}" for key, sign in _HIGH.items() if key in declared), None)
    parts = [part for part in (low, high) if part is not None]
    return f", {' and '.join(parts)}" if parts else ""


_LOW = {"minimum": "≥", "exclusiveMinimum": ">"}
_HIGH = {"maximum": "≤", "exclusiveMaximum": "<"}


def default(schema: Schema, model: str, key: str) -> str:
    """The default of a key as YAML would have it."""
    declared = properties(schema, model)[key]
    if key in definition(schema, model).get("required", ()):
        return "required"
    return f"`{json.dumps(declared['default'])}`"


def table(schema: Schema, model: str) -> Iterator[str]:
    """The rows of a model's own keys; sections that it holds have tables of their own."""
    yield "| key | type and range | default | meaning |"
    yield "|---|---|---|---|"
    for key, declared in properties(schema, model).items():
        if model_of(declared) is None:
            meaning = declared.get("description", key.replace("_", " "))
            cells = (f"`{key}`", kind(declared), default(schema, model, key), meaning)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def reference(schema: Schema) -> str:
    """The whole page, as Markdown."""
    lines = [INTRODUCTION]
    for model, places in sections(schema).items():
        if any(model_of(declared) is None for declared in properties(schema, model).values()):
            title = ", ".join(f"`{place}`" for place in places) if model else "Top level"
            purpose = f"{definition(schema, model)['description']}\n" if model else ""
            lines += [f"## {title}\n", *([purpose] if purpose else []), *table(schema, model), ""]
    return "\n".join(lines)


def main(
    page: Annotated[Path, typer.Option(help="Markdown file to write.")] = ROOT / "docs" / "configuration.md",
    schema: Annotated[Path, typer.Option(help="JSON schema to write, for editors.")] = ROOT / "params.schema.json",
) -> None:
    """Write both files."""
    text = json_schema()
    page.write_text(reference(json.loads(text)))
    schema.write_text(text)


if __name__ == "__main__":
    typer.run(main)
