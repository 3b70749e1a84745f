"""What the commands share: options, opening a store, tables, JSON, and errors that become exit codes."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.errors import CheckpointNotFound, PerdureError
from perdure.events import Event, listening
from perdure.progress import printable

if TYPE_CHECKING:
    from perdure.store import CheckpointStore

_DEFAULT_STORES = ("perdure-store", "ray_ckpts")
_WARNINGS = {
    "restore.set-aside": "{name} version {version} is damaged and was set aside: {why}",
    "list.unnamed": "no manifest in {folder} can be read, so its name is unknown: {why}",
    "checkpoint.not-marked": "{name} version {version} could not be marked as damaged: {why}",
}


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    """For shell completion, which must never fail."""
    try:
        return [name for name in open_store(ctx.params.get("store")).names() if name.startswith(incomplete)]
    except (PerdureError, TypeError):
        return []


Store = Annotated[str, typer.Argument(help="The store: a directory or an address.")]
Name = Annotated[str, typer.Argument(help="The checkpoint's name.", autocompletion=_names)]
Version = Annotated[int | None, typer.Option("--version", min=1, help="This version instead of the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a command is known to raise into a message and an exit code; others stay errors."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
            sys.stdout.flush()
        except PerdureError as error:
            _report(error, as_json=arguments["as_json"])
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError as error:
            # `perdure ls | head`: whoever read has enough. What is still buffered must not fail at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(128 + signal.SIGPIPE) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(128 + signal.SIGINT) from error

    return run


def _report(error: PerdureError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"kind": error.kind, "message": error.message, "hint": error.hint}})
        return
    typer.echo(f"error: {printable(error.message)}", err=True)
    if error.hint:
        typer.echo(f"hint: {printable(error.hint)}", err=True)


def open_store(where: str | None = None) -> CheckpointStore:
    """The store at an address, or the one in the working directory. CheckpointNotFound when there is none."""
    from perdure.store import CheckpointStore

    if where is None:
        where = next((name for name in _DEFAULT_STORES if Path(name).is_dir()), None)
        if where is None:
            raise CheckpointNotFound(
                f"there is neither ./{_DEFAULT_STORES[0]} nor ./{_DEFAULT_STORES[1]} here", hint="name the store"
            )
    if "://" not in where and not Path(where).is_dir():
        raise CheckpointNotFound(f"there is no directory {where}", hint="check the path of the store")
    return CheckpointStore(where)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Say on standard error what the engine finds damaged inside the block."""

    def warn(event: Event) -> None:
        if event.kind in _WARNINGS:
            typer.echo(f"warning: {printable(_WARNINGS[event.kind].format(**event.data))}", err=True)

    with listening(warn):
        yield


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """A table without lines; `numbers` names the columns set to the right. Only a terminal wraps it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in numbers
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=right or not console.is_terminal, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if not console.is_terminal:
        console.width = 10_000
    with console.capture() as text:
        console.print(table)
    typer.echo(text.get(), nl=False)  # rich itself would exit when the reader is gone
