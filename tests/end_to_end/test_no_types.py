"""A kernel without BTF and without vmlinux: what to get, and what is known all the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import alone, ask, lab_dump, run
from tests.lab import read_addresses

NO_BTF = "default@slab"
FUNCTIONS_ONLY = "default@arm64"


def test_the_caches_are_listed_and_what_to_get_is_said() -> None:
    ran = ask("leakscan", "-c", alone(NO_BTF, "vmcore.d31"))
    assert ran.status == 2
    assert re.fullmatch(
        r"leakscan: no debug info found for kernel 6\.1\.\S+-slab \(build ID [0-9a-f]{40}\): "
        r"give its vmlinux with -s; it holds no BTF\n",
        ran.err,
    )
    assert re.search(r"^  leaklab_obj +120 B +4,0\d\d +", ran.out, re.M)
    every = run("leakscan", "-c", alone(NO_BTF, "vmcore.d31"), "-v").out
    assert len(every.splitlines()) > len(ran.out.splitlines())


@pytest.mark.parametrize("question", [[], ["--orphans"], ["kmalloc-32"]])
def test_the_document_says_what_is_known_and_what_is_missing(question: list[str]) -> None:
    ran = run("leakscan", "-c", alone(NO_BTF, "vmcore.d31"), *question, "--json")
    assert ran.status == 2
    assert ran.err == f"leakscan: {ran.document['missing']}\n"
    mine = next(c for c in ran.document["caches"] if c["name"] == "leaklab_obj")
    assert (mine["object_size"], mine["used"] > 4000) == (120, True)


def test_what_is_not_written_is_said(tmp_path: Path) -> None:
    page, session = tmp_path / "page.html", tmp_path / "a.session"
    dump = alone(NO_BTF, "vmcore.d31")
    ran = run("leakscan", "-c", dump, "--html", page, "--record", session)
    assert ran.status == 2
    _, first, second = ran.err.splitlines()
    assert first.startswith(f"leakscan: {session} is not written: ")
    assert second.startswith(f"leakscan: {page} is not written: ")
    ran = run("objsim", "-c", dump, "--record", session, "vfs_read")
    assert ran.status == 2
    assert f"{session} is not written: " in ran.err
    assert list(tmp_path.iterdir()) == []


def test_words_are_shown_with_what_they_say() -> None:
    dump = lab_dump(NO_BTF)
    chained = int(read_addresses(dump.addresses("chain"))[0])
    ran = run("objsim", "-c", alone(NO_BTF), hex(chained), "slab_caches")
    assert ran.status == 0
    assert '"LABLINK!"' in ran.out
    assert "words alone, as no types are known" in ran.out
    document = run("objsim", "-c", alone(NO_BTF), "--json", "vfs_read", "0x10").document
    symbol, nothing = document["subjects"]
    assert symbol["kind"] == "symbol"
    assert symbol["note"].startswith("vfs_read; ")
    assert nothing["words"] == []


def test_functions_have_names_where_variables_have_none() -> None:
    dump = alone(FUNCTIONS_ONLY)
    ran = run("leakscan", "-c", dump)
    assert ran.status == 2
    assert "functions only (no CONFIG_KALLSYMS_ALL)" in ran.err
    assert "package linux-image-" in ran.err
    assert re.search(r"^  kmalloc-\S+ +[\d,]+ B +[\d,]+ +", ran.out, re.M)
    assert "vfs_read; words alone" in run("objsim", "-c", dump, "vfs_read").out
