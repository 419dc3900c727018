"""Candidate types on real dumps: caches whose true type is known, and types that are not there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crashext.analysis.likeness.similarity import group
from crashext.analysis.likeness.survey import make_classifier, survey
from crashext.analysis.likeness.words import Kind
from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.settings import Settings
from crashext.analysis.types.candidates import Types, inconclusive, rivals
from crashext.analysis.types.ranking import Ranker
from crashext.hosts.base import Host
from crashext.hosts.plain import from_plain, plain
from crashext.kernel.btf import Btf
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.conftest import few, lab_view

_SETTINGS = Settings(samples=20_000, seed=0, threshold=0.7, metric="hamming", hops=1)
# The macro radix_tree_node stands for struct xa_node since 4.20 (f8d5d0cc145c).
_TRUE = {
    "dentry": "dentry",
    "inode_cache": "inode",
    "proc_inode_cache": "proc_inode",
    "shmem_inode_cache": "shmem_inode_info",
    "task_struct": "task_struct",
    "cred_jar": "cred",
    "filp": "file",
    "vm_area_struct": "vm_area_struct",
    "anon_vma": "anon_vma",
    "kernfs_node_cache": "kernfs_node",
    "radix_tree_node": "xa_node",
    "signal_cache": "signal_struct",
    "sighand_cache": "sighand_struct",
    "mnt_cache": "mount",
}


@few
def _ranker(scenario: str) -> Ranker:
    view = lab_view(scenario)
    assert view.btf is not None
    return Ranker(view, view.btf, make_classifier(view))


def _largest(view: KernelView, cache: SlabCache) -> tuple[Any, np.ndarray[Any, Any]]:
    """The words of a cache's objects, and the rows of its largest group."""
    seen = survey(view, make_classifier(view), cache, _SETTINGS, silent)
    clusters = group(seen.words, 0.7, "hamming", seen.rng).clusters
    return seen.words, clusters[0].members


def _ranked(scenario: str, name: str, shown_as: str | None = None) -> tuple[TypeCandidate, ...]:
    view = lab_view(scenario)
    cache = view.caches.find(name)
    assert cache is not None
    words, members = _largest(view, cache)
    return _ranker(scenario).rank(replace(cache, name=shown_as or cache.name), words, members)


@pytest.mark.parametrize("name", _TRUE)
@pytest.mark.parametrize("scenario", ["default", "innocent", "healthy"])
def test_the_true_type_is_first_whatever_the_cache_is_called(scenario: str, name: str) -> None:
    """With the cache's name taken away: the objects alone must say it."""
    best, *others = _ranked(scenario, name, shown_as="nameless")
    assert best.name == f"struct {_TRUE[name]}", [(t.name, t.score) for t in others]


@pytest.mark.parametrize("scenario", ["default", "innocent", "healthy"])
def test_a_struct_that_another_equals_is_among_the_rivals(scenario: str) -> None:
    """Most of struct pid is lists: hib_bio_batch explains them as well. Nobody is named then."""
    found = _ranked(scenario, "pid")
    assert "struct pid" in {t.name for t in rivals(found)}
    assert "the cache is named like it" in next(t for t in found if "pid" in t.name).agreements


@pytest.mark.parametrize("name", ["dentry", "inode_cache", "task_struct", "cred_jar", "filp"])
def test_the_true_type_stands_alone(name: str) -> None:
    types = _ranked("default", name)
    assert not inconclusive(types[0])
    assert rivals(types) == types[:1]
    assert types[0].agree > 4 * types[0].disagree
    assert 0 < len(types[0].agreements) <= 8


@pytest.mark.parametrize(
    ("scenario", "name", "true"),
    [
        ("default", "kmalloc-32", "leaklab_node"),
        ("default", "kmalloc-512", "leaklab_message"),
        ("default", "kmalloc-96", "leaklab_link"),
        ("innocent", "kmalloc-32", "leaklab_node"),
    ],
)
def test_a_modules_own_struct_is_first(scenario: str, name: str, true: str) -> None:
    best, *_ = _ranked(scenario, name)
    assert (best.name, best.module) == (f"struct {true}", "leaklab")


def test_a_type_that_is_not_in_btf_cannot_be_told() -> None:
    """Without the module's BTF a node looks like several structs, and none is singled out."""
    view = lab_view("default")
    assert view.btf is not None
    host = view.host
    start, stop = host.address_of("__start_BTF"), host.address_of("__stop_BTF")
    assert start is not None
    assert stop is not None
    ranker = Ranker(view, Btf(host.read(start, stop - start)), make_classifier(view))
    cache = view.caches.find("kmalloc-32")
    assert cache is not None
    words, members = _largest(view, cache)
    types = ranker.rank(cache, words, members)
    assert len(rivals(types)) > 1


def test_agreements_say_what_was_seen() -> None:
    node = _ranked("default", "kmalloc-32")[0]
    assert node.disagree == 0
    assert node.disagreements == ()
    assert any(
        line.startswith("+0x0 owner: struct leaklab_control *") and "kmalloc-256" in line
        for line in node.agreements
    )
    assert "+0x8 link: list_head, list-poison" in node.agreements
    file = _ranked("default", "filp")[0]
    assert any("take a struct file" in line for line in file.agreements)


ONE = {
    "name": "struct x",
    "module": "",
    "score": 0.5,
    "gain": 9.0,
    "agree": 3,
    "disagree": 0,
    "agreements": ["y"],
    "disagreements": [],
}


def test_answers_survive_a_session() -> None:
    types = _ranked("default", "dentry")
    assert from_plain(tuple[TypeCandidate, ...], json.loads(json.dumps(plain(types)))) == types


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        ONE,
        [3],
        [{}],
        [{**ONE, "score": "high"}],
        [{**ONE, "score": 2}],
        [{**ONE, "score": float("nan")}],
        [{**ONE, "agree": -1}],
        [{**ONE, "name": "struct " + "x" * 10_000}],
        [{**ONE, "agreements": ["y" * 10_000]}],
        [{**ONE, "agreements": ["y"] * 100}],
    ],
)
def test_a_strangers_answer_is_checked(answer: Any) -> None:
    from_plain(tuple[TypeCandidate, ...], [ONE])
    with pytest.raises(ValueError, match=r"."):
        from_plain(tuple[TypeCandidate, ...], answer)


def test_without_btf_there_are_no_candidates() -> None:
    view = lab_view("default")
    cache = view.caches.find("filp")
    assert cache is not None
    words, members = _largest(view, cache)
    bare = KernelView(_Without(view.host))
    bare.scan({}, seed=0)
    assert bare.btf is None
    assert Types(bare, make_classifier(bare)).candidates(cache, words, members, 0) == ()


class _Without:
    """A host whose kernel carries no BTF."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def address_of(self, name: str) -> int | None:
        return None if name.endswith("_BTF") else self._host.address_of(name)


def test_a_struct_of_the_module_that_the_objects_name_beats_one_of_the_kernel_by_chance() -> None:
    """The ends of the messages' list, which the module's own variable begins."""
    view = lab_view("default")
    cache = view.caches.find("kmalloc-512")
    assert cache is not None
    words = survey(view, make_classifier(view), cache, _SETTINGS, silent).words
    message = words.values[:, 3] == np.uint64(int.from_bytes(b"IPMI mes", "little"))
    ends = np.flatnonzero(message & (words.kinds[:, :2] == Kind.MODULE).any(axis=1))
    assert len(ends) == 2
    types = _ranker("default").rank(cache, words, ends)
    assert (types[0].name, types[0].module) == ("struct leaklab_message", "leaklab")
    assert "the objects hold symbols of leaklab, which defines it" in types[0].agreements
    assert rivals(types) == types[:1]
