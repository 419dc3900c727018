"""The lab's own exceptions: one clear line for the person at the terminal, never a traceback."""

from __future__ import annotations


class LabError(Exception):
    """Something went wrong while building a dump; the message says what, and where to look."""


class MissingToolsError(LabError):
    """Programs that the lab needs are not on PATH; the message names the Debian packages."""
