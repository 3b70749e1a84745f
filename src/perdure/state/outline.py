"""Read a saved tree without rebuilding anything: for people who want to know what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from perdure.state import plain
from perdure.state.contract import Node
from perdure.state.tree import join


def outline(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node that is no container, with its path; a class comes before what it holds.

    LookupError, TypeError or ValueError for a tree that makes no sense.
    """
    if type(node) is dict:
        for key, item in node.items():
            yield from outline(item, join(path, key))
        return
    tag, *rest = node if type(node) is list else (None,)
    if tag in ("dict", "odict"):
        for key, item in rest[tag == "odict" :]:
            yield from outline(item, join(path, plain.decode_key(key)))
    elif tag in ("list", "tuple"):
        for index, item in enumerate(rest):
            yield from outline(item, join(path, index))
    elif tag == "stateful":
        yield from outline(rest[0], path)
    else:
        yield path, node
        if tag == "class" and rest[1] != "enum":
            yield from outline(rest[2] if rest[1] == "dataclass" else ["list", *rest[2:]], path)


def words(node: Node) -> Any:
    """A node of `outline` for people: a plain value as itself, anything else as the name of what it is."""
    if type(node) is not list:
        return node
    tag, *rest = node
    if tag in plain.TAGS:
        return plain.decode(node)
    if tag in ("set", "frozenset"):
        return frozenset(map(plain.decode_key, rest))
    if tag == "class":
        return f"{rest[0]}.{rest[2]}" if rest[1] == "enum" else f"{rest[0]} ({rest[1]})"
    return f"<{tag}>"
