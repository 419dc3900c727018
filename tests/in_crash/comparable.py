"""What a document in crash must have in common with the shell's.

crash does not tell how long a function is, so that less of some is disassembled, and in the
stand-in it has no line of source: of what the code tells, site and module are compared.
"""

from __future__ import annotations

import json
from typing import Any


def comparable(document: str | dict[str, Any]) -> Any:
    """The document without numbers of places, probabilities and lines of source."""
    return _plain(json.loads(document) if isinstance(document, str) else document)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("rung") == "code":
        return {name: value[name] for name in ("rung", "site", "module")}
    return {k: _plain(v) for k, v in value.items() if k not in ("callers", "unattributed")}
