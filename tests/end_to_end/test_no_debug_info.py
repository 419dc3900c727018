"""With nothing but the dump: the same documents as with its vmlinux, and one line that says so."""

from __future__ import annotations

import pytest

from crashext.commands.opening import NO_DEBUG_INFO
from tests.conftest import lab_dump, on, run

QUESTIONS = (
    ("default", "vmcore", ()),
    ("default", "vmcore.d31", ()),
    ("default", "vmcore.kdump", ("--orphans",)),
    ("default", "vmcore.d31", ("kmalloc-192",)),
    ("twin", "vmcore", ()),
    ("private", "vmcore.kdump", ("--orphans",)),
    ("tasks", "vmcore", ()),
    ("healthy", "vmcore.kdump", ()),
)


@pytest.mark.parametrize(("name", "form", "question"), QUESTIONS)
def test_the_document_is_that_of_a_run_with_vmlinux(
    name: str, form: str, question: tuple[str, ...]
) -> None:
    bare = run("leakscan", "-c", lab_dump(name).folder / form, "--json", *question)
    assert bare.status == 0, bare.err
    assert [line for line in bare.err.splitlines() if line.endswith(NO_DEBUG_INFO)]
    with_vmlinux = run("leakscan", *on(name, form), "--json", *question)
    assert NO_DEBUG_INFO not in with_vmlinux.err
    assert bare.document == with_vmlinux.document
