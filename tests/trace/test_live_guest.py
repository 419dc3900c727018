"""leakscan --live in a guest that leaks while it looks at itself. Some minutes: make test-live."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import only_if
from tests.lab.live import NODES, run_live

pytestmark = only_if(
    os.environ.get("CRASHEXT_LIVE"),
    "boots a guest that carries Python for some minutes: make test-live, or CRASHEXT_LIVE=1",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_live(tmp_path_factory.mktemp("live"))


def test_the_leaking_function_is_found_while_it_leaks(out: Path, schema: Any) -> None:
    assert (out / "status").read_text().strip() == "0", (out / "live.err").read_text()
    document = json.loads((out / "live.json").read_text())
    jsonschema.validate(document, schema)
    cache = document["trace"]["caches"][0]
    leak = cache["sites"][0]
    assert (leak["function"].split("+")[0], leak["module"]) == ("leaklab_lease_grant", "leaklab")
    assert leak["marked"] > 100
    assert leak["marked"] >= 0.95 * leak["outstanding"]
    others = cache["sites"][1:]
    living = next(s for s in others if s["function"].startswith("leaklab_client_join+"))
    assert living["outstanding"] > 100
    assert all(s["marked"] <= 0.01 * max(100, s["outstanding"]) for s in others)
    assert any("cost: " in remark for remark in document["trace"]["remarks"])


def test_a_killed_run_is_cleaned_up_by_the_next(out: Path) -> None:
    killed = (out / "killed").read_text().split()
    assert len(killed) == 1
    assert (out / "left").read_text().split() == killed  # SIGKILL left it behind
    remarks = json.loads((out / "live.json").read_text())["trace"]["remarks"]
    assert "removed 1 tracing instance of killed runs" in remarks


def test_the_machine_s_own_tracing_is_as_before(out: Path) -> None:
    before, after = (out / "before").read_text(), (out / "after").read_text()
    assert "sched_process_exit" in before
    assert before == after


def answer(out: Path, name: str, schema: Any) -> Any:
    error = (out / f"{name}.err").read_text()
    assert (out / f"{name}.status").read_text().strip() == "0", error
    assert "no debug info: types from the kernel's own BTF" in error
    document = json.loads((out / f"{name}.json").read_text())
    jsonschema.validate(document, schema)
    return document


def test_the_running_kernel_is_read_without_debug_info(out: Path, schema: Any) -> None:
    document = answer(out, "bare", schema)
    # On a slow machine more leases than nodes are lost by then.
    culprits = [(verdict["culprit"] or {}).get("cache") for verdict in document["verdicts"]]
    mine = document["verdicts"][culprits.index("kmalloc-32")]
    assert (mine["class"], mine["where"]) == ("leak", "slab")
    assert mine["culprit"]["module"] == "leaklab"
    assert mine["culprit"]["caller"].startswith("leaklab_leak_nodes+")
    assert mine["bytes"] >= 0.98 * NODES * 32


def test_and_so_is_one_of_its_caches(out: Path, schema: Any) -> None:
    (cache,) = answer(out, "bare-cache", schema)["caches"]
    first = cache["groups"][0]
    assert first["objects"]["low"] <= NODES <= first["objects"]["high"]
    assert first["callers"]["sites"][0]["site"]["function"] == "leaklab_leak_nodes"
    assert first["types"][0]["name"] == "struct leaklab_node"
