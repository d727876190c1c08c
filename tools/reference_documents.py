"""A page for each JSON document: every object in it with its fields, their types, and what they mean.

Made of the published JSON Schemas. What a document is for says the docstring of the module that defines it.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from quark_eagle.documents.schema import PUBLISHED, path_of, schema_text
from tools.markdown import GENERATED_NOTE, escaped, listed, table

Schema = Mapping[str, Any]
SHA256 = "^[0-9a-f]{64}$"


def document_pages() -> dict[str, str]:
    """`documents/README.md`, and a page for each document."""
    schemas = {name: json.loads(schema_text(name)) for name in PUBLISHED}
    rows = [(f"[{name}]({name}.md)", f"{version}", _in_a_sentence(name)) for name, (_, version) in PUBLISHED.items()]
    index = "\n\n".join(
        (
            "# Documents",
            GENERATED_NOTE,
            "JSON that the commands write and read. An unknown key is an error, a number is never NaN or infinite, and "
            "`schema_version` says which page holds. The schemas themselves are in `quark_eagle/documents/schemas/`.",
            table(("document", "schema version", "what it is"), rows),
        )
    )
    return {"documents/README.md": index + "\n"} | {
        f"documents/{name}.md": document_page(name, schema) for name, schema in schemas.items()
    }


def document_page(name: str, schema: Schema) -> str:
    """The page of one document, its objects in the order in which they are first named."""
    parts = [
        f"# {name}",
        GENERATED_NOTE,
        *_prose(name),
        f"Schema version {PUBLISHED[name][1]}: `quark_eagle/documents/schemas/{path_of(name).name}`.",
        _fields(schema),
    ]
    for title in _in_order(schema):
        part = schema["$defs"][title]
        parts += [f"## {title}", _description(part)]
        parts += [_fields(part)] if "properties" in part else [f"One of {_type(part)}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _prose(name: str) -> list[str]:
    """What a document is for: its module's docstring, or its own where the module defines several documents."""
    document, version = PUBLISHED[name]
    alone = sum(other.__module__ == document.__module__ for other, _ in PUBLISHED.values()) == 1
    text = inspect.cleandoc((sys.modules[document.__module__] if alone else document).__doc__ or "")
    paragraphs = [" ".join(it.split()) for it in text.partition("\n\nAttributes:")[0].split("\n\n")]
    return [escaped(it.replace("``", "`").replace(f", schema version {version}", "")) for it in paragraphs]


def _in_a_sentence(name: str) -> str:
    return _prose(name)[0]


def _description(schema: Schema) -> str:
    return escaped(" ".join(schema.get("description", "").split()).replace("``", "`"))


def _fields(schema: Schema) -> str:
    """The table of an object's fields; those that may be left out say so."""
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        kind = _type(field) if name in required else f"{_type(field)}, may be missing"
        rows.append((f"`{name}`", kind, _description(field)))
    return table(("field", "type", "meaning"), rows)


def _type(field: Schema) -> str:
    """What values a field takes, in Markdown, with links to the objects of the page."""
    if "$ref" in field:
        title = field["$ref"].rpartition("/")[2]
        return f"[{title}](#{title.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(it) for it in field["anyOf"])
    if "const" in field:
        return f"`{_value(field['const'])}`"
    if "enum" in field:
        return listed([f"`{_value(it)}`" for it in field["enum"]], "or")
    return _of_kind(field)


def _of_kind(field: Schema) -> str:
    kind = field.get("type", "any value")
    if kind == "array":
        if "prefixItems" in field:
            return f"[{', '.join(_type(it) for it in field['prefixItems'])}]".replace("[", "\\[", 1)
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object":
        inner = field.get("additionalProperties", {})
        return f"object, by name: {_type(inner)}" if isinstance(inner, Mapping) and inner else "object"
    if field.get("pattern") == SHA256:
        return "SHA-256 (hex)"
    if "pattern" in field:
        return f"string matching `{field['pattern']}`".replace("|", "\\|")
    return " ".join((kind, *_bounds(field)))


def _bounds(field: Schema) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    if bounds:
        yield ", ".join(bounds)


def _in_order(schema: Schema) -> list[str]:
    """Names of the objects, in the order in which a reader meets them."""
    found: list[str] = []

    def meet(part: object) -> None:
        if isinstance(part, Mapping):
            if "$ref" in part:
                title = str(part["$ref"]).rpartition("/")[2]
                if title not in found:
                    found.append(title)
                    meet(schema["$defs"][title])
                return
            for key, inner in part.items():
                if key != "$defs":
                    meet(inner)
        elif isinstance(part, list):
            for inner in part:
                meet(inner)

    meet(schema)
    return found


def _value(constant: object) -> str:
    return "null" if constant is None else str(constant)
