"""Names become keys that are safe, and different names different keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import StorageError, UsageError
from perdure.storage.keys import check_key, decode_name, encode_name

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300)
# Few letters and many repetitions, so that names that could collide are tried.
TRICKY = st.text("./=%2E~aA é", min_size=1, max_size=200)


@given(NAMES | TRICKY)
def test_any_name_becomes_one_safe_segment(name: str) -> None:
    segment = encode_name(name)
    assert check_key(segment) == [segment]
    assert len(segment) <= 180, "room for what callers put before or behind it"


@given(NAMES | TRICKY)
def test_decoding_is_the_inverse_or_says_that_it_cannot(name: str) -> None:
    segment = encode_name(name)
    assert decode_name(segment) in (name, None)
    assert decode_name(segment) == name or len(name.encode()) > 60


@given(st.sets(NAMES | TRICKY, min_size=2, max_size=20))
def test_different_names_have_different_segments(names: set[str]) -> None:
    assert len({encode_name(name) for name in names}) == len(names)


def test_an_encoded_name_is_a_name_too() -> None:
    names = ["a/b"]
    for _ in range(20):
        names.append(encode_name(names[-1]))
    assert len(set(names)) == len({encode_name(name) for name in names}) == 21


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("mnist", "mnist"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E."),
        (".", "%2E"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        (".hidden", "%2Ehidden"),
        ("a b", "a%20b"),
        ("a=b", "a%3Db"),
        ("%2E.", "%252E."),
        ("é", "%C3%A9"),
        ("-rf", "-rf"),
    ],
)
def test_known_names(name: str, segment: str) -> None:
    assert encode_name(name) == segment
    assert decode_name(segment) == name


def test_long_names_are_told_apart_by_their_ends() -> None:
    long = ["x" * 300, "x" * 299 + "y", "x" * 301, "é" * 300]
    segments = [encode_name(name) for name in long]
    assert len(set(segments)) == len(long)
    assert [decode_name(segment) for segment in segments] == [None] * len(long)
    assert encode_name("x" * 300) == segments[0], "the same in every process"


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "\ud800", "a\udfffb", None, 7, b"bytes"])
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(UsageError):
        encode_name(name)  # type: ignore[arg-type]


@given(st.text(max_size=300))
def test_a_key_that_passes_cannot_lead_outside(key: str) -> None:
    try:
        segments = check_key(key)
    except StorageError:
        return
    assert "/".join(segments) == key
    for segment in segments:
        assert segment.isascii()
        assert segment.isprintable()
        assert not segment.startswith(".")
        assert 0 < len(segment) <= 255


@pytest.mark.parametrize("key", ["../x", "a/..", "/a", "a/", "a//b", "", ".", "a\0", "a\n", "x" * 256, "\ud800"])
def test_unsafe_keys_are_refused(key: str) -> None:
    with pytest.raises(StorageError, match="not a valid key"):
        check_key(key)
