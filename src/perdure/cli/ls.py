"""`perdure ls`: which checkpoints a store holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import Json, open_store, print_json, print_table, warnings_shown
from perdure.errors import CheckpointNotFound
from perdure.progress import age, figures, size

if TYPE_CHECKING:
    from perdure.store import CheckpointStore

_HEADINGS = ("NAME", "VERSION", "STEP", "AGE", "SIZE", "WROTE", "METRICS")


def ls(
    store: Annotated[
        str | None, typer.Argument(help="The store; ./perdure-store or ./ray_ckpts if left out.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only this name.")] = None,
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Older versions as well.")] = False,
    as_json: Json = False,
) -> None:
    """List checkpoints: the newest of each name, and damaged ones.

    Reads manifests only, and runs no code from them.
    """
    opened = open_store(store)
    with warnings_shown():
        names = list(opened.names()) if name is None else [name]
        rows = [row for one in names for row in _rows(opened, one, all_versions)]
    if name is not None and not rows:
        raise CheckpointNotFound(f"there is no checkpoint {name!r} in {opened.storage.where}")
    if as_json:
        print_json(rows)
    elif rows:
        now = time.time()
        print_table(_HEADINGS, (_cells(row, now) for row in rows), numbers=_HEADINGS[1:6])
    else:
        typer.echo(f"no checkpoints in {opened.storage.where}")


def _rows(store: CheckpointStore, name: str, all_versions: bool) -> Iterator[dict[str, Any]]:
    from perdure.catalog import Checkpoint

    shown = False
    for found in store.catalog.survey(name):
        if found.is_fence or (shown and not all_versions and not found.damage):
            continue
        shown = shown or not found.damage
        row: dict[str, Any] = {"name": name, "version": found.version, "damaged": found.damage or None}
        if found.record is not None:
            checkpoint = Checkpoint.of(found.record.manifest)
            row |= {key: getattr(checkpoint, key) for key in ("step", "created", "nbytes", "written", "metadata")}
        yield row


def _cells(row: dict[str, Any], now: float) -> list[str]:
    first = [row["name"], str(row["version"])]
    if "created" not in row:
        return [*first, "", "", "", "", f"damaged: {row['damaged']}"]
    metadata = row["metadata"]
    metrics = metadata.get("metrics") if isinstance(metadata.get("metrics"), dict) else metadata
    step = "" if row["step"] is None else str(row["step"])
    last = f"damaged, set aside: {row['damaged']}" if row["damaged"] else figures(metrics)
    return [*first, step, age(now - row["created"]), size(row["nbytes"]), size(row["written"]), last]
