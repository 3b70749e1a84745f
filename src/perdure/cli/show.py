"""`perdure show`: one checkpoint in detail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from perdure.cli.common import Json, Name, Store, Version, open_store, print_json, print_table, warnings_shown
from perdure.errors import CheckpointNotFound, DamagedError
from perdure.progress import printable, size

if TYPE_CHECKING:
    from perdure.catalog import Found, Record
    from perdure.store import CheckpointStore

_LONGEST = 60
_SIGNATURES = {
    "none": "not signed",
    "known": "signed with a key known here",
    "unknown": "signed with a key that is not known here",
    "broken": "DAMAGED: altered after it was signed",
}


def show(store: Store, name: Name, version: Version = None, as_json: Json = False) -> None:
    """Show what a checkpoint holds, where, by whom and why.

    The newest whole version, unless another is given. Reads manifests only, and runs no code from them.
    """
    opened = open_store(store)
    with warnings_shown():
        survey = list(opened.catalog.survey(name))
        found = _choose(survey, version)
        if found is None:
            which = "" if version is None else f" version {version}"
            raise CheckpointNotFound(f"there is no checkpoint {name!r}{which} in {opened.storage.where}")
        if found.record is None:
            raise DamagedError(f"version {found.version} of {name!r}: {found.damage}")
        facts = _facts(opened, name, found, found.record, survey)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _choose(survey: list[Found], version: int | None) -> Found | None:
    if version is not None:
        return next((found for found in survey if found.version == version), None)
    candidates = [found for found in survey if not found.is_fence]
    return next((found for found in candidates if not found.damage), candidates[0] if candidates else None)


def _facts(store: CheckpointStore, name: str, found: Found, record: Record, survey: list[Found]) -> dict[str, Any]:
    import msgspec

    manifest = record.manifest
    values, classes = _values(manifest.tree)
    objects = [path for path, leaf in manifest.leaves.items() if leaf.kind == "object"]
    return {
        "name": name,
        "version": found.version,
        "kind": manifest.kind,
        "step": manifest.step,
        "created": manifest.created,
        "nbytes": manifest.nbytes,
        "file": f"{store.storage.where}/{store.catalog.manifest_key(name, found.version)}",
        "damaged": found.damage or None,
        "metadata": manifest.metadata,
        "info": manifest.info,
        "signature": _signature(store, record),
        "key": record.key_id or None,
        "needs_trust": [*objects, *classes],
        "leaves": [{"path": path} | msgspec.to_builtins(leaf) for path, leaf in manifest.leaves.items()],
        "values": values,
        "packs": list(_packs(store, name, found, record, survey)),
        "versions": [_brief(other) for other in survey],
    }


def _values(tree: Any) -> tuple[dict[str, Any], list[str]]:
    """The plain values of a state by path, and the paths of what only a class could rebuild."""
    from perdure.state.outline import outline, words

    try:
        nodes = [(path, node) for path, node in outline(tree) if type(node) is not list or node[0] != "leaf"]
        values = {path: words(node) for path, node in nodes}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"the tree of the state makes no sense: {error}") from error
    return values, [path for path, node in nodes if type(node) is list and node[0] == "class"]


def _signature(store: CheckpointStore, record: Record) -> str:
    from perdure.encode import signer

    if not record.mac:
        return "none"
    try:
        return "known" if record.signed_by(signer(store.settings, create=False)) else "unknown"
    except DamagedError:
        return "broken"


def _packs(
    store: CheckpointStore, name: str, found: Found, record: Record, survey: list[Found]
) -> Iterator[dict[str, Any]]:
    there = store.catalog.pack_sizes(name) if record.manifest.packs else {}
    for pack, its in record.manifest.packs.items():
        sharing = [
            other.version
            for other in survey
            if other.record and other.version != found.version and pack in other.record.manifest.packs
        ]
        yield {"pack": pack, "nbytes": its.size, "found": there.get(pack), "shared_with": sharing}


def _brief(found: Found) -> dict[str, Any]:
    brief = {"version": found.version, "damaged": found.damage or None}
    if found.record is None:
        return brief
    manifest = found.record.manifest
    return brief | {"kind": manifest.kind, "step": manifest.step, "created": manifest.created}


def _print(facts: dict[str, Any]) -> None:
    from perdure.catalog.writer import CONTEXT

    for label, text in _head(facts):
        if text:
            typer.echo(f"{label + ':':<13}{printable(text)}")
    mine = [leaf for leaf in facts["leaves"] if leaf["path"].partition("/")[0] != CONTEXT]
    rows = [
        [leaf["path"], _what(leaf), _shape(leaf), str(leaf["nbytes"]), leaf["pack"] or "(manifest)", leaf["digest"]]
        for leaf in mine
    ]
    _section("LEAF", "DTYPE", "SHAPE", "BYTES", "PACK", "DIGEST", rows=rows)
    if len(mine) < len(facts["leaves"]):
        typer.echo(f"and {len(facts['leaves']) - len(mine)} of the run itself: random generators, positions of loops")
    _section("VALUE", "IS", rows=[[path, _short(value)] for path, value in facts["values"].items()])
    rows = [
        [pack["pack"], str(pack["nbytes"]), _state(pack), ", ".join(map(str, pack["shared_with"])) or "none"]
        for pack in facts["packs"]
    ]
    _section("PACK", "BYTES", "STATE", "OTHER VERSIONS", rows=rows)
    rows = [
        [str(one["version"]), _step(one.get("step")), _when(one.get("created")), one["damaged"] or one["kind"]]
        for one in facts["versions"]
        if one["version"] != facts["version"]
    ]
    _section("OTHER VERSION", "STEP", "SAVED", "STATE", rows=rows)


def _head(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    info = facts["info"]
    decision = info.get("decision")
    yield "name", facts["name"]
    yield "version", f"{facts['version']}{' (a fence: it marks a takeover)' if facts['kind'] == 'fence' else ''}"
    yield "damaged", facts["damaged"] or ""
    yield "step", _step(facts["step"])
    yield "saved", _when(facts["created"])
    yield "state", f"{size(facts['nbytes'])} in {len(facts['leaves'])} leaves"
    yield "wrote", f"{info['written']} bytes" if "written" in info else ""
    yield "by", ", ".join(f"{key} {info[key]}" for key in ("host", "pid", "python", "perdure") if key in info)
    yield "because", str(decision.get("reason", "")) if isinstance(decision, dict) else ""
    yield "metadata", json.dumps(facts["metadata"]) if facts["metadata"] else ""
    yield "signature", _SIGNATURES[facts["signature"]] + (f" ({facts['key']})" if facts["key"] else "")
    yield "needs trust", _trust(facts)
    yield "file", facts["file"]


def _trust(facts: dict[str, Any]) -> str:
    paths = facts["needs_trust"]
    if not paths:
        return "no: arrays and plain data only"
    what = ", ".join(path or "the state" for path in paths[:5]) + (" ..." if len(paths) > 5 else "")
    if facts["signature"] == "known":
        return f"no: the key is known; rebuilding runs code for {what}"
    return f"YES: nobody known here vouches for {what}, and rebuilding it runs code"


def _section(*headings: str, rows: list[list[str]]) -> None:
    if rows:
        typer.echo()
        print_table(headings, rows, numbers=("BYTES", "STEP", "OTHER VERSION"))


def _step(step: int | None) -> str:
    return "" if step is None else str(step)


def _what(leaf: dict[str, Any]) -> str:
    return "object" if leaf["kind"] == "object" else str(leaf["dtype"])


def _shape(leaf: dict[str, Any]) -> str:
    return f"[{', '.join(map(str, leaf['shape']))}]"


def _state(pack: dict[str, Any]) -> str:
    if pack["found"] is None:
        return "MISSING"
    return "there" if pack["found"] == pack["nbytes"] else f"DAMAGED: {pack['found']} bytes"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value.startswith("<") else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _when(created: float | None) -> str:
    try:
        return "" if created is None else datetime.fromtimestamp(created, UTC).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return str(created)
