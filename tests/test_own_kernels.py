"""Configurations of the lab's own kernels: which lines kconfig must have taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.own_kernel import CONFIGS, wanted


def test_a_comment_that_speaks_of_an_option_is_none() -> None:
    fragment = (
        "# SLAB, where CONFIG_DEBUG_SLAB is set: see CONFIG_STACKTRACE.\n"
        'CONFIG_DEBUG_SLAB=y\n# CONFIG_SLUB is not set\nCONFIG_LOCALVERSION="-x"\n'
        "# CONFIG_SLUB is not set everywhere\n"
    )
    taken = ["CONFIG_DEBUG_SLAB=y", "# CONFIG_SLUB is not set", 'CONFIG_LOCALVERSION="-x"']
    assert wanted(fragment) == taken


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.config")), ids=lambda c: c.stem)
def test_each_kernel_of_our_own_asks_for_something(config: Path) -> None:
    asked = wanted(config.read_text())
    assert f'CONFIG_LOCALVERSION="-{config.stem}"' in asked
    assert len(asked) > 50
