"""Real vmcores of real leaks: boots a guest in QEMU, leaks in it on purpose, dumps it.

    python -m tests.lab default twin

See README.md in this folder. From Python::

    from tests.lab import build, scenario
    dump = build(scenario("default"))
    dump.vmcore, dump.truth()["parts"]["nodes"]["count"]
"""

from .build import (
    Dump,
    build,
    cache_folder,
    must_boot_distribution,
    must_compile,
    must_fetch_suite,
)
from .distribution import DISTRIBUTION_PACKAGES
from .errors import LabError, MissingToolsError
from .own_kernel import own_kernel_packages
from .packages import APT_PACKAGES, arm64_packages
from .scenarios import OWN_KERNELS, SCENARIOS, Scenario, scenario
from .suites import NEWEST_SUITE, SUITES
from .truth import read_addresses

__all__ = [
    "APT_PACKAGES",
    "DISTRIBUTION_PACKAGES",
    "NEWEST_SUITE",
    "OWN_KERNELS",
    "SCENARIOS",
    "SUITES",
    "Dump",
    "LabError",
    "MissingToolsError",
    "Scenario",
    "arm64_packages",
    "build",
    "cache_folder",
    "must_boot_distribution",
    "must_compile",
    "must_fetch_suite",
    "own_kernel_packages",
    "read_addresses",
    "scenario",
]
