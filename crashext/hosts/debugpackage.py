"""Which package holds a kernel's debug info, told by its release string alone."""

from __future__ import annotations

import re

_UBUNTU = "generic|lowlatency|azure|aws|gcp|gke|gkeop|ibm|kvm|oracle|raspi|realtime|nvidia"
_DEBIAN = "(?:cloud-|rt-)?(?:amd64|arm64|ppc64el|s390x)"
_PACKAGES = (  # pattern of the release, package, whose it is
    (rf"\d+\.\d+\.\d+-\d+-(?:{_UBUNTU})\S*", "linux-image-{0}-dbgsym", "Ubuntu"),
    (rf"\d[\w.+~-]*-{_DEBIAN}", "linux-image-{0}-dbg", "Debian"),
    (r"\S+uek(?:\.\w+)+", "kernel-uek-debuginfo-{0}", "Oracle Linux"),
    (r"\S+\.el\d\w*\.\w+", "kernel-debuginfo-{0}", "RHEL and its kin"),
    (r"\S+\.fc\d+\.\w+", "kernel-debuginfo-{0}", "Fedora"),
    (r"\S+\.amzn\d+\.\w+", "kernel-debuginfo-{0}", "Amazon Linux"),
    (r"\S+-default", "kernel-default-debuginfo", "SUSE"),
    (r"\S+-azure", "kernel-azure-debuginfo", "SUSE"),
)


def package(release: str) -> str:
    """``linux-image-6.1.0-56-amd64-dbg (Debian)``; "" for a release that is nobody's."""
    for pattern, name, distribution in _PACKAGES:
        if re.fullmatch(pattern, release):
            return f"{name.format(release)} ({distribution})"
    return ""


def missing_debug_info(release: str, build_id: str | None) -> str:
    """One line: what is missing, and where it is to be had."""
    known = package(release)
    return (
        f"no debug info found for kernel {release} (build ID {build_id or 'unknown'}): give its "
        f"vmlinux with -s" + (f"; package {known} has it" if known else "")
    )
