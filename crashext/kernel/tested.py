"""How far tests have gone: a kernel that is newer than the newest of them is said to be so."""

from __future__ import annotations

from crashext.kernel.markers import release_tuple

NEWEST = (7, 2)
"""`make test-kernels` runs on it; where Debian has a newer one, it fails until this follows."""


def untested(release: str) -> str:
    """One line on a kernel that is newer; "" where it is not, or does not say."""
    version = release_tuple(release)
    if version is None or version <= NEWEST:
        return ""
    newest = f"{NEWEST[0]}.{NEWEST[1]}"
    return (
        f"Linux {version[0]}.{version[1]} is newer than {newest}, the newest that was tested: "
        "what it changed may be misread; where the mark finds that, nobody is accused"
    )
