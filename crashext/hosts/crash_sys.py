"""What crash's `sys` says of a session. It imports nothing, for -h asks whether a kernel runs."""

from __future__ import annotations

_LIVE = ("/proc/kcore", "/dev/mem", "/dev/crash")


def sys_fields(text: str) -> dict[str, str]:
    """The lines ``KEY: value`` of `sys`."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def dump_file(fields: dict[str, str]) -> str:
    """Path of the dump; "" where crash looks at the running kernel."""
    dump = fields.get("DUMPFILE", "").split("  ")[0].strip()
    return "" if dump.startswith(_LIVE) else dump
