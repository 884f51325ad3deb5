"""Command lines of the workflow's scripts: typed parameters as options, errors as one sentence."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from spaceevo.config import Section, parse_section
from spaceevo.errors import ParamsError, SpaceEvoError

PARENT_POLL_S = 0.5


def run(main: Callable[..., None]) -> None:
    """Put a typed `main` on the command line: each parameter is an option, a list the positional arguments.

    A parameter that is a section of params.yaml takes its JSON. Where the environment names the process that started it
    in SPACEEVO_PARENT, the script ends with that process, however that ends: what takes its place may run it again.
    """
    parent = int(os.environ.get("SPACEEVO_PARENT", "0"))
    if parent and _alive(parent):
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    typer.run(_with_options(clear_errors(main)))


def _end_with(process: int) -> None:
    while _alive(process):
        time.sleep(PARENT_POLL_S)
    os._exit(1)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def clear_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Let `main` end with one sentence and exit code 1 on an error of the user's, 130 on Ctrl-C.

    A traceback is shown where the environment has SPACEEVO_DEBUG set.
    """

    @wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except SpaceEvoError as error:
            if os.environ.get("SPACEEVO_DEBUG"):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("interrupted: run again to go on; finished artifacts are kept", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def _with_options(main: Callable[..., None]) -> Callable[..., None]:
    hints = get_type_hints(main, include_extras=True)
    bare = inspect.signature(main).parameters
    annotations = {name: _annotated(hints[name]) for name in bare}
    parameters = [parameter.replace(annotation=annotations[name]) for name, parameter in bare.items()]

    @wraps(main)
    def wrapped(**kwargs: Any) -> None:
        main(**kwargs)

    del wrapped.__wrapped__  # or typer would read the bare signature of `main`
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = annotations
    return wrapped


def _annotated(kind: Any) -> Any:
    if get_origin(kind) is list:
        return Annotated[kind, typer.Argument()]
    if isinstance(kind, type) and issubclass(kind, Section):
        return Annotated[kind, typer.Option(parser=partial(_section, kind), metavar=f"{kind.__name__}-JSON")]
    return Annotated[kind, typer.Option()]


def _section(kind: type[Section], text: str | Section) -> Section:
    try:
        return parse_section(kind, text) if isinstance(text, str) else text
    except ParamsError as error:
        raise typer.BadParameter(str(error)) from None
