"""The register of a model's names: each one is a version or an alias, in one spelling.

A name is entered before its log gets a first entry, by one exclusive create under its lower-case form. So of a version and
an alias of one name, or of two names that differ only in case, one is refused, also when both are made at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gllm_storage.errors import ObjectExistsError, ObjectNotFoundError, Remedy
from gllm_storage.versions.layout import is_name, require_name
from gllm_storage.versions.log import create_exclusively
from gllm_storage.versions.tree import FORMAT, damaged, decode_json, encode_json, require_format

if TYPE_CHECKING:
    from gllm_storage.versions.layout import Model

Kind = Literal["version", "alias"]


def enter(model: Model, name: str, kind: Kind, operation: str) -> None:
    """Enter a name, unless it is entered already.

    Args:
        model: The model.
        name: The name.
        kind: The kind of the name.
        operation: The operation, for errors.

    Raises:
        ValueError: If the name is not valid.
        ObjectExistsError: If the name is one of the other kind, or differs from another name only in case.
        StorageError: If a request fails.
    """
    key = _key(model, require_name(name))
    found = find(model, name)
    if found is None:
        try:
            create_exclusively(model.store, key, encode_json({"format": FORMAT, "kind": kind, "name": name}))
        except ObjectExistsError:
            found = find(model, name)
    _require_same(model, name, kind, found, operation)


def require_free(model: Model, name: str, kind: Kind, operation: str) -> None:
    """Check that a name can be entered, without doing so; raises as `enter`."""
    _require_same(model, name, kind, find(model, name), operation)


def _require_same(model: Model, name: str, kind: Kind, found: tuple[str, Kind] | None, operation: str) -> None:
    if found is None or found == (name, kind):
        return
    other, other_kind = found
    twin = "" if other == name else ", which differs only in case"
    raise ObjectExistsError(
        f"{model.store.url(model.prefix)} {_use_of(model, other, other_kind)}{twin}, so {name!r} cannot be "
        f"{'an' if kind == 'alias' else 'a'} {kind}",
        model.store.details(_key(model, name), operation),
        Remedy.OTHER_NAME,
    )


def _use_of(model: Model, name: str, kind: Kind) -> str:
    """The use of a name. One with an empty log stays reserved: its process may be at work still."""
    folder, article, state = (
        ("versions", "a", "was not published to its end") if kind == "version" else ("aliases", "an", "points to nothing")
    )
    if model.store.first(f"{model.key(folder, name)}/") is not None:
        return f"has {article} {kind} {name!r}"
    return f"reserves {name!r} for {article} {kind} that {state}"


def find(model: Model, name: str) -> tuple[str, Kind] | None:
    """The entered name that equals a name but for case, and its kind; None if there is none.

    Raises:
        ValueError: If the name is not valid.
        IntegrityError: If the object is damaged.
        StorageError: If the request fails.
    """
    key = _key(model, require_name(name))
    transfer = model.store.transfer(key, "read")
    try:
        data = model.store.read(key, transfer)
    except ObjectNotFoundError:
        return None
    fields = decode_json(data, transfer.details)
    require_format(fields, transfer.details)
    found, kind = fields.get("name"), fields.get("kind")
    if not isinstance(found, str) or not is_name(found) or found.lower() != name.lower():
        raise damaged(transfer.details, "it has another name")
    if kind == "version":
        return found, "version"
    if kind == "alias":
        return found, "alias"
    raise damaged(transfer.details, "it has no known kind")


def _key(model: Model, name: str) -> str:
    return model.key("names", f"{name.lower()}.json")
