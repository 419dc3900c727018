"""A word that is nearly one which shows a part of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from crashext.commands.words import or_word, word_meant
from tests.conftest import SESSIONS, run


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("wy", "why"),
        ("memry", "memory"),
        ("page", "pages"),
        ("growt", "growth"),
        ("cache", "caches"),
    ],
)
def test_a_near_word_is_suggested_with_what_it_shows(typed: str, meant: str) -> None:
    assert word_meant(typed).startswith(f"the word {meant} (")
    ran = run("leakscan", "-r", SESSIONS / "many-leaks.session", typed)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"the word {meant} (" in ran.err


def test_names_of_caches_are_near_none() -> None:
    known = "kmalloc-32 dentry filp task_struct radix_tree_node names_cache anon_vma mm_struct"
    assert not any(map(word_meant, known.split()))


def test_it_is_said_behind_what_else_may_be_meant() -> None:
    assert or_word("no slab cache is called cache: did you mean fs_cache?", "cache").startswith(
        "no slab cache is called cache: did you mean fs_cache, or the word caches ("
    )
    assert or_word("no slab cache is called xyz among the 9 of this kernel", "xyz").endswith(
        "kernel"
    )


def test_beside_saved_text_too(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 10 kB\n")
    ran = run("leakscan", tmp_path, "memry")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "cannot open memry" in ran.err
    assert "the word memory (" in ran.err
