"""`perdure verify`: prove every byte of the checkpoints whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import Json, Store, Version, _names, open_store, print_json, warnings_shown
from perdure.errors import CheckpointNotFound, DamagedError
from perdure.events import Event, listening
from perdure.progress import printable, size

if TYPE_CHECKING:
    from perdure.catalog import Found
    from perdure.store import CheckpointStore

_FAILED = DamagedError.exit_code


def verify(
    store: Store,
    name: Annotated[str | None, typer.Argument(help="Only this name.", autocompletion=_names)] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Read every byte of all checkpoints, or of some.

    Runs no code from them. Damaged ones are set aside, and one set aside earlier that proves whole is taken back.
    Exits with 74 when any is damaged.
    """
    opened = open_store(store)
    lost: list[dict[str, Any]] = []
    with warnings_shown(), listening(lambda event: _unreadable(event, lost)):
        todo = list(_wanted(opened, name, version))
        if not todo and (name is not None or version is not None):
            which = ("" if name is None else f" {name!r}") + ("" if version is None else f" version {version}")
            raise CheckpointNotFound(f"there is no checkpoint{which} in {opened.storage.where}")
        with _bar(found for _, found in todo):
            results = [result for one, found in todo if (result := _verify(opened, one, found))]
    results += lost
    if as_json:
        print_json(results)
    else:
        for result in results:
            _say(result)
        bad = sum(not result["ok"] for result in results)
        typer.echo(f"{len(results)} checked, {len(results) - bad} whole, {bad} damaged")
    if not all(result["ok"] for result in results):
        raise typer.Exit(_FAILED)


def _wanted(store: CheckpointStore, name: str | None, version: int | None) -> Iterator[tuple[str, Found]]:
    for one in store.names() if name is None else [name]:
        for found in store.catalog.survey(one):
            if version in (None, found.version) and not found.is_fence:
                yield one, found


def _verify(store: CheckpointStore, name: str, found: Found) -> dict[str, Any] | None:
    result: dict[str, Any] = {"name": name, "version": found.version}
    try:
        checkpoint = store.verify(name, found.version)
    except DamagedError as error:
        return result | {"ok": False, "why": str(error)}
    except CheckpointNotFound:
        return None  # retention removed it meanwhile
    return result | {"ok": True, "nbytes": checkpoint.nbytes, "taken_back": bool(found.damage)}


def _unreadable(event: Event, lost: list[dict[str, Any]]) -> None:
    """A name that no manifest of its folder can tell any more."""
    if event.kind == "list.unnamed":
        lost.append({"name": event.data["folder"], "version": None, "ok": False, "why": event.data["why"]})


def _say(result: dict[str, Any]) -> None:
    version = "" if result["version"] is None else f" version {result['version']}"
    if result["ok"]:
        verdict = f"{size(result['nbytes'])}{', taken back' if result['taken_back'] else ''}"
    else:
        verdict = result["why"]
    typer.echo(f"{'ok ' if result['ok'] else 'BAD'} {printable(result['name'])}{version}: {printable(verdict)}")


@contextmanager
def _bar(todo: Iterable[Found]) -> Iterator[None]:
    """How many bytes are read, on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    total = sum(found.record.manifest.nbytes for found in todo if found.record is not None)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verify", total=total)

        def advance(event: Event) -> None:
            if event.kind == "verify.leaf":
                progress.advance(task, event.data["nbytes"])

        with listening(advance):
            yield
