"""The published schemas are those of the types, and hold the documents that the program writes."""

from __future__ import annotations

import json

import jsonschema
import pytest

from quark_eagle.documents.schema import DIRECTORY, PUBLISHED, path_of, schema_text
from tests.reports import AT_PAR, VERDICTS, report, verdict


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_schema_is_current(name: str) -> None:
    assert path_of(name).read_text(encoding="utf-8") == schema_text(name), (
        "run `python -m quark_eagle.documents.schema` and think about the schema's version"
    )


def test_no_other_schema_is_published() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {path_of(name).name for name in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_schema_is_one_and_says_its_version(name: str) -> None:
    schema = json.loads(path_of(name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    version = PUBLISHED[name][1]
    assert schema["properties"]["schema_version"]["const"] == version
    assert schema["$id"] == f"urn:quark-eagle:{name}:{version}"


def valid(name: str, document: object) -> bool:
    schema = json.loads(path_of(name).read_text(encoding="utf-8"))
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


@pytest.mark.parametrize("name", VERDICTS)
def test_every_verdict_is_valid(name: str) -> None:
    assert valid("verdict", json.loads(verdict(name).to_json()))


def test_a_report_is_valid_and_one_with_a_stray_or_a_missing_key_is_not() -> None:
    document = json.loads(report(AT_PAR[:4]).to_json())
    assert valid("parity", document)
    assert not valid("parity", document | {"colour": "red"})
    del document["prompts"][0]["sha256"]
    assert not valid("parity", document)


def test_what_a_docstring_says_of_an_attribute_describes_its_property() -> None:
    schema = json.loads(schema_text("verdict"))
    assert schema["properties"]["rule"]["description"] == "what decided."
    assert "Attributes:" not in json.dumps(schema)
