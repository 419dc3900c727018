"""`%leakscan` and `%objsim` typed inside drgn, in drgn's own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from markupsafe import escape

from tests.conftest import alone, ask, lab_dump, on
from tests.report.pages import Parsed


def typed(*lines: str, debug_info: bool = True) -> subprocess.CompletedProcess[str]:
    dump = lab_dump("default")
    drgn = Path(sys.executable).with_name("drgn")
    typing = "".join(f"; run_command(prog, {line!r})" for line in lines)
    script = f"from drgn.commands import run_command{typing}"
    symbols = ["-s", dump.vmlinux] if debug_info else ["--no-default-symbols"]
    return subprocess.run(
        [drgn, "-q", "-c", dump.vmcore, *symbols, "-e", script],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_answer_is_the_shells() -> None:
    ours = ask("leakscan", *on("default"), "--json", "kmalloc-32")
    assert typed("leakscan --json kmalloc-32").stdout == ours.out


def test_without_debug_info_it_is_the_same_twice() -> None:
    line = "leakscan --json kmalloc-32"
    bare = ask("leakscan", "-c", alone("default"), "--json", "kmalloc-32")
    assert typed(line, line, debug_info=False).stdout == 2 * bare.out


def test_pipes_work() -> None:
    assert typed("leakscan kmalloc-32 | head -1").stdout.startswith("kmalloc-32: 200,000 of")


def test_a_page_is_the_shells_but_for_the_words_to_ask_again(tmp_path: Path) -> None:
    typed(f"leakscan kmalloc-32 --html {tmp_path}/drgn.html")
    ran = ask("leakscan", *on("default"), "kmalloc-32", "--html", tmp_path / "shell.html")
    assert ran.status == 0
    drgns, shells = (Parsed((tmp_path / f"{who}.html").read_text()) for who in ("drgn", "shell"))
    assert "%leakscan kmalloc-32" in [e.text for e in drgns.all("code")]
    for page in (drgns, shells):
        for one in page.all("code"):
            page.page = page.page.replace(f"<code>{escape(one.text)}</code>", "<code></code>")
    assert drgns.page == shells.page


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("leakscan kmaloc-32", "did you mean kmalloc-32"),
        ("leakscan --list x", "add --orphans"),
        ("objsim zork", "neither a hexadecimal address nor a symbol"),
    ],
)
def test_bad_questions_get_one_line(line: str, says: str) -> None:
    done = typed(line)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_no_source_options() -> None:
    assert "--samples" in typed("leakscan -h").stdout
    assert "--core" not in typed("leakscan -h").stdout
