"""Which package holds a kernel's debug info, told by its release string alone."""

from __future__ import annotations

import re

_UBUNTU = "generic|lowlatency|azure|aws|gcp|gke|gkeop|ibm|kvm|oracle|raspi|realtime|nvidia"
_DEBIAN = "(?:cloud-|rt-)?(?:amd64|arm64|ppc64el|s390x)"
_SUSE = "default|azure|rt|64kb|preempt|kvmsmall|vanilla"
_RED_HAT = "RHEL, CentOS, Rocky, Alma"
_MACHINE = "(?:x86_64|aarch64|ppc64le|s390x)"
_PACKAGES = (  # pattern of the release, package by its groups, whose it is
    (rf"(\d+\.\d+\.\d+-\d+-(?:{_UBUNTU})\S*)", "linux-image-{0}-dbgsym", "Ubuntu"),
    (rf"(\d[\w.+~-]*-{_DEBIAN})", "linux-image-{0}-dbg", "Debian"),
    (r"(\S+uek(?:\.\w+)+)", "kernel-uek-debuginfo-{0}", "Oracle Linux"),
    # A flavour stands behind the architecture, in 3.10 behind a dot.
    (rf"(\S+\.el\d\w*\.{_MACHINE})[+.]([\w-]+)", "kernel-{1}-debuginfo-{0}", _RED_HAT),
    (rf"(\S+\.fc\d+\.{_MACHINE})[+]([\w-]+)", "kernel-{1}-debuginfo-{0}", "Fedora"),
    (rf"(\S+\.rt\S+\.el\d\w*\.{_MACHINE})", "kernel-rt-debuginfo-{0}", _RED_HAT),
    (rf"(\S+\.el\d\w*\.{_MACHINE})", "kernel-debuginfo-{0}", _RED_HAT),
    (rf"(\S+\.fc\d+\.{_MACHINE})", "kernel-debuginfo-{0}", "Fedora"),
    # Amazon Linux 2023 calls its first kernel, 6.1, kernel, and the later ones by their versions.
    (r"((?!6\.1\.)(\d+\.\d+)\.\S+\.amzn2023\.\w+)", "kernel{1}-debuginfo-{0}", "Amazon Linux"),
    (r"(\S+\.amzn\d+\.\w+)", "kernel-debuginfo-{0}", "Amazon Linux"),
    (rf"(\d\S*)-({_SUSE})", "kernel-{1}-debuginfo-{0}", "SUSE"),
)
_NONE = (
    (r"\d[\w.]*-(?:arch\d+-\d+|\d+-lts|zen\d+-\d+-zen|hardened\d+-\d+-hardened)", "Arch"),
    (r"\S+-[Mm]icrosoft-standard\S*", "WSL"),
)


def package(release: str) -> str:
    """``package linux-image-6.1.0-56-amd64-dbg (Debian) has it``; "" for a release that is
    nobody's.
    """
    for pattern, name, distribution in _PACKAGES:
        found = re.fullmatch(pattern, release)
        if found:
            return f"package {name.format(*found.groups())} ({distribution}) has it"
    for pattern, distribution in _NONE:
        if re.fullmatch(pattern, release):
            return f"{distribution} has no package of it"
    return ""


def missing_debug_info(release: str, build_id: str) -> str:
    """One line: what is missing, and where it is to be had."""
    known = package(release)
    return (
        f"no debug info found for kernel {release} (build ID {build_id or 'unknown'}): give its "
        f"vmlinux with -s" + (f"; {known}" if known else "")
    )
