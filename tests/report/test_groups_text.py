"""`leakscan CACHE` on a terminal: what tells much in full, what tells little in a line."""

from __future__ import annotations

import re

import pytest

from tests.conftest import SESSIONS, ask

SAID = {
    "unlinked-nodes": ("kmalloc-32",),
    "two-leaks": ("kmalloc-64",),
    "healthy": ("kmalloc-32", "kmalloc-64", "dentry"),
    "living-list": ("kmalloc-32", "dentry"),
}


def lines(name: str, *options: str) -> list[str]:
    return ask(
        "leakscan", "-r", SESSIONS / f"{name}.session", *SAID[name], *options
    ).out.splitlines()


def test_a_small_group_that_is_held_is_one_line() -> None:
    out = "\n".join(lines("unlinked-nodes"))
    assert len(re.findall(r"exemplar [0-9a-f]+:", out)) == 1
    small = r"  group 2: \d+ objects \(<0\.1 %\), [^;\n]*: still in use"
    assert re.search(small, out)
    assert re.search(r"  group 3: .*: held by the variable vector_irq; text at \+0x0", out)
    assert "effective_affinity" in out
    whole = "\n".join(lines("unlinked-nodes", "-v"))
    assert not re.search(small, whole)
    assert len(re.findall(r"exemplar [0-9a-f]+:", whole)) == 8


def test_groups_of_many_or_of_lost_objects_are_shown_in_full() -> None:
    out = "\n".join(lines("two-leaks"))
    assert out.count("exemplar") == 2  # both leaks; the third group is 0.1 % and held
    assert "contents in 30,000 seen" in out


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("options", [(), ("-v",)])
def test_no_sentence_stands_twice_among_what_is_said_of_a_cache(
    name: str, options: tuple[str, ...]
) -> None:
    asked = [text.strip() for text in lines(name, *options)]
    advice = [t for t in asked if t.startswith(("trace-cmd record", "- cannot tell who allocated"))]
    assert len(advice) == len(set(advice))


def test_the_only_type_named_is_the_one_that_stands_out() -> None:
    for name in ("unlinked-nodes", "two-leaks"):
        assert not re.search(r"may be struct .*, or\s+struct", " ".join(lines(name)))
        assert "udp_tunnel_nic_shared" not in "\n".join(lines(name))
    assert "udp_tunnel_nic_shared" in "\n".join(lines("unlinked-nodes", "-v"))
