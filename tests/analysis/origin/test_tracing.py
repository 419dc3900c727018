"""The trace that a report asks for where the code alone does not tell."""

from __future__ import annotations

import pytest

from crashext.analysis.origin.tracing import trace_command
from crashext.analysis.results.callsites import CallSite
from crashext.hosts.base import U64
from tests.fake import slab_cache


def site(function: str, *sizes: int, tail: bool = False) -> CallSite:
    return CallSite(function, 0x20, "", U64(0), "kmalloc_trace", tail, sizes)


CACHE = slab_cache("kmalloc-64", 64)


def test_it_names_the_functions_and_the_size() -> None:
    asked = trace_command("6.12.117+deb13-amd64", CACHE, [site("one", 48), site("two", 48)])
    assert asked == (
        "trace-cmd record -e kmem:kmalloc -f 'bytes_alloc == 64 && bytes_req == 48 && "
        "(call_site.function == one || call_site.function == two)' -T -e kmem:kfree sleep 60 "
        "# then: leakscan --trace trace.dat"
    )


def test_an_object_of_a_named_cache_is_freed_under_its_name() -> None:
    asked = trace_command("7.2.13+deb14-amd64", slab_cache("cred", 192), [site("prepare_creds")])
    assert "'bytes_alloc == 192 && call_site.function == prepare_creds' -T" in asked
    assert """-e kmem:kmem_cache_free -f 'name == "cred"' sleep""" in asked


@pytest.mark.parametrize(
    ("release", "equals"),
    [
        ("6.1.0-56-amd64", [site("one", 48), site("two", 56)]),  # no kernel before 6.3 knows it
        ("nonsense", [site("one", 48), site("two", 56)]),
        ("6.12.1", [site("part.isra.0", 48), site("two", 56)]),  # of that name may be several
        ("6.12.1", [site("one", 48), site("two", 56, tail=True)]),  # the caller has no such name
        ("6.12.1", [site(f"of_{i}", i) for i in range(40)]),
        ("6.12.1", [site("x'; reboot; '", 48), site("two")]),
    ],
)
def test_what_a_filter_cannot_say_is_left_to_the_stacks(
    release: str, equals: list[CallSite]
) -> None:
    asked = trace_command(release, CACHE, equals)
    assert "-f 'bytes_alloc == 64' -T -e kmem:kfree sleep" in asked


def test_no_cache_of_a_dump_reaches_a_shell() -> None:
    assert "reboot" not in trace_command("6.12.1", slab_cache("x'; reboot; '", 64), [site("a")])
