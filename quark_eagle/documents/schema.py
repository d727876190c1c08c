"""The published JSON Schemas of the documents, made of the types that read and write them.

    python -m quark_eagle.documents.schema

writes them to `quark_eagle/documents/schemas/`; a test holds that they are current.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from quark_eagle.documents.base import Document, write_text
from quark_eagle.documents.baseline import BASELINE_SCHEMA_VERSION, BaselineReport
from quark_eagle.documents.calibration import CALIBRATION_SCHEMA_VERSION, Calibration
from quark_eagle.documents.ledger import LEDGER_SCHEMA_VERSION, Ledger
from quark_eagle.documents.parity import PARITY_SCHEMA_VERSION, ParityReport
from quark_eagle.documents.release import (
    ENVIRONMENT_SCHEMA_VERSION,
    RELEASE_SCHEMA_VERSION,
    Environment,
    ReleaseRecord,
)
from quark_eagle.documents.release_check import RELEASE_CHECK_SCHEMA_VERSION, ReleaseCheck
from quark_eagle.documents.schemes import SCHEMES_SCHEMA_VERSION, SchemesReport
from quark_eagle.documents.throughput import THROUGHPUT_SCHEMA_VERSION, ThroughputReport
from quark_eagle.documents.verdict import VERDICT_SCHEMA_VERSION, Verdict
from quark_eagle.documents.weights import WEIGHTS_SCHEMA_VERSION, WeightStatistics

DIRECTORY = Path(__file__).parent / "schemas"
PUBLISHED: dict[str, tuple[type[Document], int]] = {
    "parity": (ParityReport, PARITY_SCHEMA_VERSION),
    "baseline": (BaselineReport, BASELINE_SCHEMA_VERSION),
    "verdict": (Verdict, VERDICT_SCHEMA_VERSION),
    "calibration": (Calibration, CALIBRATION_SCHEMA_VERSION),
    "schemes": (SchemesReport, SCHEMES_SCHEMA_VERSION),
    "throughput": (ThroughputReport, THROUGHPUT_SCHEMA_VERSION),
    "release": (ReleaseRecord, RELEASE_SCHEMA_VERSION),
    "release_check": (ReleaseCheck, RELEASE_CHECK_SCHEMA_VERSION),
    "environment": (Environment, ENVIRONMENT_SCHEMA_VERSION),
    "ledger": (Ledger, LEDGER_SCHEMA_VERSION),
    "weights": (WeightStatistics, WEIGHTS_SCHEMA_VERSION),
}
"""Documents by the name of their schema, with the schema's version."""


def path_of(name: str) -> Path:
    """Where a schema lies."""
    return DIRECTORY / f"{name}.schema.json"


def schema_text(name: str) -> str:
    """The text of a schema's file. What a docstring says under "Attributes:" describes the property of that name."""
    cls, version = PUBLISHED[name]
    content = cls.model_json_schema()
    described = {model.__name__: model for model in _models(cls)}
    for part, schema in {cls.__name__: content, **content.get("$defs", {})}.items():
        _describe(schema, described[part])
    head = {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:quark-eagle:{name}:{version}"}
    return json.dumps(head | content, indent=1, ensure_ascii=False) + "\n"


def _models(cls: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all models inside it."""
    found, waiting = {cls}, [cls]
    while waiting:
        for field in waiting.pop().model_fields.values():
            inner = {model for model in _types_in(field.annotation) if model not in found}
            found |= inner
            waiting += inner
    return found


def _types_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in getattr(annotation, "__args__", ()) for model in _types_in(argument)}


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Move a docstring's lines about attributes to the properties that they are about."""
    summary, _, attributes = inspect.cleandoc(model.__doc__ or "").partition("\n\nAttributes:\n")
    schema["description"] = " ".join(summary.split())
    for described in schema["properties"].values():
        described.pop("title", None)  # pydantic's capitals say no more than the name
    for name, text in re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, flags=re.MULTILINE):
        schema["properties"][name]["description"] = " ".join(text.split())


def main() -> None:
    """Write all schemas."""
    DIRECTORY.mkdir(exist_ok=True)
    for name in PUBLISHED:
        write_text(path_of(name), schema_text(name))


if __name__ == "__main__":
    main()
