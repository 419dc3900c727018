"""`python -m crashext.report.schema`: writes schema.json from the types of the documents.

Descriptions are the docstrings of classes and, below a field, its own.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from crashext.hosts.base import U64
from crashext.report.documents import JUDGED, KINDS, Verdicts, name

PATH = Path(__file__).with_name("schema.json")
_WIDTH = 200
_WORD: dict[str, Any] = {"type": "string", "pattern": "^0x[0-9a-f]+$"}
_OURS: dict[type, dict[str, Any]] = {U64: _WORD, np.ndarray: {"type": "array", "items": _WORD}}
"""What hosts/plain.py writes, and msgspec does not know."""


def schema() -> dict[str, Any]:
    """The JSON Schema of all documents."""
    kinds = (*KINDS, Verdicts)
    _, found = msgspec.json.schema_components(kinds, schema_hook=lambda kind: _OURS[kind])
    for cls in classes_of(*kinds):
        _complete(found[cls.__name__], _remarks(cls))
    verdicts = found.pop("Verdicts")["properties"]
    documents = {}
    for report, kind in KINDS.items():
        whole = documents[kind] = found.pop(report.__name__)
        fields = {"schema": {"const": name(report)}, **(verdicts if report in JUDGED else {})}
        whole["properties"] = fields | whole["properties"]
        whole["required"] = list(whole["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "crashext reports",
        "description": "What leakscan --json and objsim --json print. The number at the end of "
        "'schema' grows when a field changes its meaning or goes away.",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in documents],
        "$defs": documents | found,
    }


def text() -> str:
    """The file: a line a field, where it fits."""
    return _lines(schema(), 0) + "\n"


def classes_of(*kinds: Any) -> Iterator[type]:
    """Every dataclass and struct that these types are made of."""
    seen: set[type] = set()
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(kinds))
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting += node
        if not isinstance(node, msgspec.Struct):
            continue
        if isinstance(node, msgspec.inspect.DataclassType | msgspec.inspect.StructType):
            if node.cls in seen:
                continue
            seen.add(node.cls)
            yield node.cls
        waiting += [getattr(node, inner) for inner in node.__struct_fields__]


def _complete(component: dict[str, Any], remarks: dict[str, str]) -> None:
    """We write every field, and no other."""
    component["required"] = list(component["properties"])
    component["additionalProperties"] = False
    for field, what in component["properties"].items():
        what.pop("default", None)
        if field in remarks:
            what["description"] = remarks[field]


def _remarks(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class, by the name that the field has in JSON."""
    renamed = (
        {f.name: f.encode_name for f in msgspec.structs.fields(cls)}
        if issubclass(cls, msgspec.Struct)
        else {}
    )
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("crashext."):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, after in pairwise(body.body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=known)), ast.Expr(ast.Constant(str(said))):
                    plain = re.sub(r"\bNone\b", "null", " ".join(said.split()))
                    found.setdefault(renamed.get(known, known), plain)
    return found


def _lines(value: Any, depth: int) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth < _WIDTH or not isinstance(value, dict):
        return flat
    inner = (f"{' ' * depth} {json.dumps(k)}: {_lines(v, depth + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(inner) + f"\n{' ' * depth}}}"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
