"""Names, slots, directories and paths."""

from __future__ import annotations

import pytest

from gllm_storage.versions.layout import (
    LAST_SLOT,
    Mark,
    is_place,
    mark_of,
    model_of,
    place_of,
    require_name,
    require_outside,
    require_path,
    slot_name,
    slot_of,
)
from tests.versions.support import MODEL, new_client, store_bytes

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize("name", ["v3", "3", "V3.1_rc-2", "a" * 128])
def test_valid_name(name: str) -> None:
    """One segment of letters, digits, dots, underscores and hyphens is a name."""
    assert require_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "v3/x", ".v3", "-v3", "_v3", "v 3", "v3\n", "vé", "v3\0", "a" * 129, "..", DIGEST, None, 3, b"v3"]
)
def test_invalid_name(name: str) -> None:
    """Any other name is refused, and the message has it."""
    with pytest.raises(ValueError, match="cannot be the name") as caught:
        require_name(name)
    assert repr(name) in str(caught.value)


def test_slots_count_down() -> None:
    """A later slot has a smaller key of the same length, and is read back."""
    slots = [1, 2, 9, 10, 99, 12345, LAST_SLOT]
    texts = [slot_name(each) for each in slots]
    assert sorted(texts, reverse=True) == texts
    assert {len(each) for each in texts} == {8}
    assert [slot_of(each) for each in texts] == slots


@pytest.mark.parametrize("slot", [0, -1, LAST_SLOT + 1])
def test_slot_out_of_range(slot: int) -> None:
    """There is no such slot."""
    with pytest.raises(ValueError, match="is not between"):
        slot_name(slot)


@pytest.mark.parametrize("text", ["", "1", "99999999", "0000000x", "-0000001", "\u0660" * 8, "000000001"])
def test_text_that_is_not_a_slot(text: str) -> None:
    """Only eight ASCII digits are a slot, and slot 0 is not one."""
    assert slot_of(text) is None


def test_directories() -> None:
    """A directory is a digest and a number without leading zeros."""
    place = place_of(DIGEST, 12)
    assert place == f"{'ab' * 32}-12"
    assert is_place(place)
    for other in (place.upper(), place[:-3], f"{'ab' * 32}-012", f"{place}/x", f"{place}\n", f"x{place}"):
        assert not is_place(other)


@pytest.mark.parametrize("digest", ["ab" * 32, "sha256:" + "AB" * 32, "sha256:ab", f"{DIGEST}\n", f"sha1:{'ab' * 32}", None])
def test_invalid_digest(digest: str) -> None:
    """A digest has its algorithm and 64 lower-case digits."""
    with pytest.raises(ValueError, match="is not a digest"):
        place_of(digest, 0)


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("v3/99999998-5f0c", Mark("v3", 1)),
        ("v3/99999998", Mark("v3", 1)),
        ("v3-rc-1/99999998-5f0c", Mark("v3-rc-1", 1)),
        ("v3/x-5f0c", None),
        ("99999998-5f0c", None),
        ("v3/x/99999998-5f0c", None),
        (".v3/99999998-5f0c", None),
    ],
)
def test_marks(name: str, mark: Mark | None) -> None:
    """A mark names a version and a slot; another key is not one."""
    assert mark_of(name) == mark


@pytest.mark.parametrize("path", ["a", "a/b.txt", "ünï/ß", "a b", "-"])
def test_path_of_a_file(path: str) -> None:
    """Relative paths are kept as they are."""
    assert require_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\\b", "..\\x", "a\0b", "a\nb", "\ud800", "x" * 1025],
)
def test_path_that_escapes(path: str) -> None:
    """A path that leaves the directory, or that some system changes, is refused."""
    with pytest.raises(ValueError, match=r"remote path|backslash"):
        require_path(path)


@pytest.mark.parametrize("path", ["", "/", "x/", "/x/", "memory://b/x/"])
def test_not_a_model(path: str) -> None:
    """A path that cannot be that of a model is refused with the advice to name a model, not an object."""
    with pytest.raises(ValueError, match="name a model") as caught:
        model_of(new_client(), path)
    assert repr(path) in str(caught.value)


def test_model_of_a_path_or_url() -> None:
    """A model is named by a relative path or by its URL."""
    client = new_client()
    model = model_of(client, MODEL)
    assert model.prefix == MODEL
    assert model_of(client, client.url(MODEL)) == model
    for wrong in ("", "a//b", "../a", "a/"):
        with pytest.raises(ValueError, match="remote path"):
            model_of(client, wrong)


@pytest.mark.parametrize("inner", ["data/x", "versions/v1", "names", "marks/a/b"])
def test_model_inside_another(inner: str) -> None:
    """A model inside another one's folders is refused; one beside them, or in a folder of such a name, is not."""
    client = new_client()
    outer = model_of(client, MODEL)
    inside = model_of(client, f"{MODEL}/{inner}")
    require_outside(inside)
    store_bytes(outer.store, outer.key("versions", "v1", "99999998.json"), b"{}")
    require_outside(outer)
    require_outside(model_of(client, f"{MODEL}/other"))
    with pytest.raises(ValueError, match=f"lies inside the model '{MODEL}'"):
        require_outside(inside)
