"""`perdure restore`: take a state out of a store, into a file of another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.common import Json, Name, Store, Version, open_store, print_json, warnings_shown
from perdure.errors import UntrustedError, UsageError
from perdure.progress import printable, size

_TRUST = "share the signing key (PERDURE_SIGNING_KEY_FILE), or pass --trust if you know who wrote it: that runs code"


def restore(
    store: Store,
    name: Name,
    to: Annotated[Path, typer.Argument(help="The file to write: .npz, .pt or .json.")],
    version: Version = None,
    step: Annotated[int | None, typer.Option("--step", help="The newest checkpoint of this step.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Only these paths, as in 'model/*'.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Rebuild objects that nobody known here has signed. THIS RUNS CODE.")
    ] = False,
    arrays: Annotated[bool, typer.Option("--arrays", help="Write arrays to .json as lists.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace TO if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write the state of a checkpoint to a file.

    The newest whole one, unless another is given; every byte is checked.

    \b
    .npz   arrays by path; numbers and strings as arrays without dimensions; bfloat16 and float8 as float32,
           which holds all their values. What NumPy cannot hold without pickle is left out, and named.
    .pt    the state as torch.load gives it back.
    .json  plain data; what has no form in JSON (dates, NaN) as its text, bytes in base64.
    """
    from perdure.cli import export
    from perdure.restore import Request, Select

    write = export.writer(to, arrays_as_lists=arrays)
    with export.replacing(to, force=force) as file, warnings_shown():
        request = Request(only=tuple(only or ()), trust=trust)
        try:
            restored = open_store(store).restore(name, request, Select(version, step))
        except UntrustedError as error:
            raise UntrustedError(error.message, hint=_TRUST) from error
        if only and all(value is None for _, value in export.items(restored.state)):
            raise UsageError(f"no path of {name!r} matches {', '.join(only)}", hint="`perdure show` lists the paths")
        done = write(restored.state, file)
    nbytes = to.stat().st_size
    manifest = restored.manifest
    if as_json:
        facts = {"name": name, "version": manifest.version, "step": manifest.step, "to": str(to), "nbytes": nbytes}
        print_json(facts | {"arrays": done.arrays, "notes": done.notes, "left_out": done.left_out})
        return
    at = "" if manifest.step is None else f", step {manifest.step}"
    typer.echo(f"{printable(name)} version {manifest.version}{at}: {done.arrays} arrays, {size(nbytes)} in {to}")
    for note in done.notes:
        typer.echo(f"note: {printable(note)}", err=True)
    for path in done.left_out:
        typer.echo(f"left out: {printable(path)}", err=True)
