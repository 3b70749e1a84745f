"""The program `perdure` and its commands; each imports what it needs only when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli import demo, ls, restore, show, verify
from perdure.cli.common import exit_codes
from perdure.config import VERSION

_EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 usage, 74 checkpoint or transfer failed, 75 busy, 128+n ended by signal n.
With --json a result is one JSON value on standard output, an error {"error": {"kind", "message", "hint"}};
progress and warnings go to standard error."""

app = typer.Typer(
    name="perdure",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perdure {VERSION}")
        raise typer.Exit


@app.callback()
def _perdure(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Crash-safe checkpoints: see what is there, prove it whole, take it out."""


for _command in (ls.ls, show.show, verify.verify, restore.restore, demo.demo):
    app.command(epilog=_EPILOG)(exit_codes(_command))


def main() -> None:
    """The console script."""
    app(prog_name="perdure")
