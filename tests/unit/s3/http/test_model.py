"""The copy of botocore's model equals the model of the installed botocore."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from gllm_storage.s3.http.listing_document import FIELDS
from gllm_storage.s3.http.model import MODELS


@pytest.fixture(scope="module")
def service() -> Any:
    """Botocore's model of S3."""
    return botocore.session.Session().get_service_model("s3")


def place_of(name: str, shape: Any) -> tuple[str, str]:
    """The place of a parameter in botocore's model."""
    location, place = str(shape.serialization.get("location", "")), str(shape.serialization.get("name", name))
    return location, place.lower() if location == "header" else place


def headers_of(shape: Any) -> dict[str, tuple[str, str]]:
    """The headers of an answer in botocore's model."""
    return {
        str(each.serialization["name"]).lower(): (name, each.type_name)
        for name, each in (shape.members.items() if shape else ())
        if each.serialization.get("location") == "header"
    }


def elements_of(shape: Any) -> set[str]:
    """The texts in the document of an answer in botocore's model."""
    members = shape.members.items() if shape else ()
    found = {name: each for name, each in members if not each.serialization.get("location")}
    payload = shape.serialization.get("payload") if shape else None
    if found.keys() == FIELDS.keys():
        return set()
    assert {each.type_name for name, each in found.items() if name != payload} <= {"string"}
    return found.keys() - {payload}


def fields_of(shape: Any) -> Any:
    """The elements of an element in botocore's model, in the form of `FIELDS`."""
    if shape.type_name == "list":
        assert shape.serialization.get("flattened")
        return [fields_of(shape.member)]
    if shape.type_name != "structure":
        return shape.type_name
    return {name: fields_of(each) for name, each in shape.members.items() if not each.serialization.get("location")}


def test_listing(service: Any) -> None:
    """The elements of a listing are those of botocore."""
    assert fields_of(service.operation_model("ListObjectsV2").output_shape) == FIELDS


@pytest.mark.parametrize("method", MODELS)
def test_equals_botocore(method: str, service: Any) -> None:
    """Parameters, headers and method of an operation are those of botocore."""
    model = MODELS[method]
    theirs = service.operation_model(model.name)
    assert model.method == theirs.http["method"]
    assert model.query == theirs.http["requestUri"].partition("?")[2]
    assert model.inputs == {name: place_of(name, each) for name, each in theirs.input_shape.members.items()}
    assert model.outputs == headers_of(theirs.output_shape)
    assert model.elements == elements_of(theirs.output_shape)
    assert model.has_metadata == ("Metadata" in (theirs.output_shape.members if theirs.output_shape else {}))
    assert not (theirs.output_shape and theirs.output_shape.metadata)  # its errors are not modeled by the shape
