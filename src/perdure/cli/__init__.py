"""`perdure ...`: arguments to calls, errors to exit codes."""

from perdure.cli.app import app, main

__all__ = ["app", "main"]
