"""What crash's `mod` says of the modules, by name. It needs no numpy."""

from __future__ import annotations

import re
from pathlib import Path

# ffffffffc050f0c0  leaklab  ffffffffc050a000  36864  /srv/leaklab.ko
_LOADED = re.compile(r"^[0-9a-f]{8,16}\s+(\S+)\s+[0-9a-f]{8,16}\s+\d+\s+(/\S.*?) *$", re.MULTILINE)
# ffffffffc050f0c0  leaklab  ffffffffc050a000  36864  (not loaded)  [CONFIG_KALLSYMS]
_NAMED = re.compile(r"^[0-9a-f]{8,16}\s+(\S+)\s+[0-9a-f]{8,16}\s+\d+\s", re.MULTILINE)


def module_names(mod: str) -> set[str]:
    """Of all modules."""
    return set(_NAMED.findall(mod))


def module_files(mod: str) -> dict[str, Path]:
    """Name of each module whose debug file ``mod -s`` has loaded -> that file."""
    return {name: Path(path.split("  ")[0]) for name, path in _LOADED.findall(mod)}


def knows_files(mod: str) -> bool:
    """Whether ``mod -s`` brought types that the kernel's own memory need not have."""
    return any("(not loaded)" not in row for row in mod.splitlines()[1:])
