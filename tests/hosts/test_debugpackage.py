"""The package that has a kernel's debug info, by its release: each distribution's own name."""

from __future__ import annotations

import pytest

from crashext.hosts.debugpackage import missing_debug_info, package

RED_HAT = "RHEL, CentOS, Rocky, Alma"


@pytest.mark.parametrize(
    ("release", "name", "distribution"),
    [
        ("6.1.0-56-amd64", "linux-image-6.1.0-56-amd64-dbg", "Debian"),
        (
            "6.12.117+deb13-cloud-arm64",
            "linux-image-6.12.117+deb13-cloud-arm64-dbg",
            "Debian",
        ),
        ("5.10.0-0.deb10.16-rt-amd64", "linux-image-5.10.0-0.deb10.16-rt-amd64-dbg", "Debian"),
        ("5.15.0-91-generic", "linux-image-5.15.0-91-generic-dbgsym", "Ubuntu"),
        ("6.8.0-1008-azure", "linux-image-6.8.0-1008-azure-dbgsym", "Ubuntu"),
        ("6.8.0-45-generic-64k", "linux-image-6.8.0-45-generic-64k-dbgsym", "Ubuntu"),
        ("3.10.0-1160.el7.x86_64", "kernel-debuginfo-3.10.0-1160.el7.x86_64", RED_HAT),
        (
            "3.10.0-1160.el7.x86_64.debug",
            "kernel-debug-debuginfo-3.10.0-1160.el7.x86_64",
            RED_HAT,
        ),
        (
            "3.10.0-1160.rt56.1131.el7.x86_64",
            "kernel-rt-debuginfo-3.10.0-1160.rt56.1131.el7.x86_64",
            RED_HAT,
        ),
        (
            "4.18.0-553.el8_10.x86_64",
            "kernel-debuginfo-4.18.0-553.el8_10.x86_64",
            RED_HAT,
        ),
        (
            "5.14.0-427.13.1.el9_4.aarch64+64k",
            "kernel-64k-debuginfo-5.14.0-427.13.1.el9_4.aarch64",
            RED_HAT,
        ),
        ("6.11.4-301.fc41.x86_64", "kernel-debuginfo-6.11.4-301.fc41.x86_64", "Fedora"),
        (
            "6.11.4-301.fc41.x86_64+debug",
            "kernel-debug-debuginfo-6.11.4-301.fc41.x86_64",
            "Fedora",
        ),
        (
            "5.15.0-200.131.27.el8uek.x86_64",
            "kernel-uek-debuginfo-5.15.0-200.131.27.el8uek.x86_64",
            "Oracle Linux",
        ),
        (
            "5.10.223-212.873.amzn2.x86_64",
            "kernel-debuginfo-5.10.223-212.873.amzn2.x86_64",
            "Amazon Linux",
        ),
        (
            "6.1.109-118.189.amzn2023.x86_64",
            "kernel-debuginfo-6.1.109-118.189.amzn2023.x86_64",
            "Amazon Linux",
        ),
        (
            "6.12.20-23.97.amzn2023.x86_64",
            "kernel6.12-debuginfo-6.12.20-23.97.amzn2023.x86_64",
            "Amazon Linux",
        ),
        ("4.12.14-122.124-default", "kernel-default-debuginfo-4.12.14-122.124", "SUSE"),
        ("6.4.0-150600.8.11-azure", "kernel-azure-debuginfo-6.4.0-150600.8.11", "SUSE"),
    ],
)
def test_the_package_is_named_by_release(release: str, name: str, distribution: str) -> None:
    line = missing_debug_info(release, "abc")
    assert f"kernel {release} (build ID abc)" in line
    assert line.endswith(f"give its vmlinux with -s; package {name} ({distribution}) has it")


@pytest.mark.parametrize(
    ("release", "who"),
    [
        ("6.11.1-arch1-1", "Arch"),
        ("6.6.52-1-lts", "Arch"),
        ("6.11.1-zen1-1-zen", "Arch"),
        ("5.15.153.1-microsoft-standard-WSL2", "WSL"),
    ],
)
def test_there_is_none_where_none_is_made(release: str, who: str) -> None:
    assert package(release) == f"{who} has no package of it"


@pytest.mark.parametrize("release", ["6.9.0-custom", "6.1.192-slab", "?", ""])
def test_a_kernel_of_ones_own_names_none(release: str) -> None:
    assert package(release) == ""
    assert missing_debug_info(release, "").endswith("(build ID unknown): give its vmlinux with -s")
