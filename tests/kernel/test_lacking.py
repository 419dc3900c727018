"""What a newer kernel has renamed is left out, the rest is kept, and that is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.base import Layout, UnknownLayout
from crashext.hosts.modulelist import module_list
from crashext.kernel.counters.tasks import processes_of
from crashext.kernel.lacking import Lacking
from crashext.kernel.pages.filesystems import read_tmpfs
from crashext.kernel.pages.rawpages import raw_pages
from tests.conftest import lab_host, lab_view


class Newer:
    """A kernel whose `type_name` has a member by another name, or that has not that type."""

    def __init__(self, type_name: str, member: str = "") -> None:
        self._host, self._type, self._member = lab_host("default"), type_name, member

    def layout(self, type_name: str) -> Layout | None:
        found = self._host.layout(type_name)
        if type_name != self._type or found is None:
            return found
        if not self._member:
            return None
        members = {n: m for n, m in found.members.items() if n != self._member}
        return replace(found, members=members | {"renamed": found.members[self._member]})

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


def test_a_whole_kernel_lacks_nothing() -> None:
    view, lacking = lab_view("default"), Lacking()
    read_tmpfs(view.host, view.space, lacking)
    processes_of(view.host, view.space, lacking)
    raw_pages(view.host, view.space, lacking)
    assert lacking.sentences == ()


@pytest.mark.parametrize(
    ("type_name", "member", "said"),
    [
        ("struct mount", "mnt_ns", "where tmpfs are mounted is not known"),
        ("struct mount", "mnt_instance", "where tmpfs are mounted is not known"),
        ("struct vfsmount", "", "where tmpfs are mounted is not known"),
        ("struct shmem_sb_info", "max_blocks", "limits of tmpfs are not known"),
        ("struct file_system_type", "name", "kinds of tmpfs are not known"),
        ("struct dentry", "d_name", "files of tmpfs are shown without names"),
    ],
)
def test_a_tmpfs_is_kept_without_what_is_not_understood(
    type_name: str, member: str, said: str
) -> None:
    view, lacking = lab_view("default"), Lacking()
    whole = read_tmpfs(view.host, view.space, Lacking())
    host = Newer(type_name, member)
    found = read_tmpfs(host, view.space, lacking)  # type: ignore[arg-type]
    assert sorted(t.bytes for t in found) == sorted(t.bytes for t in whole)
    assert any(sentence.startswith(f"{said}: ") for sentence in lacking.sentences)


def test_inodes_that_are_not_understood_are_said() -> None:
    view, lacking = lab_view("default"), Lacking()
    host = Newer("struct inode", "i_sb_list")
    assert read_tmpfs(host, view.space, lacking) == ()  # type: ignore[arg-type]
    assert lacking.sentences == (
        "tmpfs and its kin are not found: struct inode has no member i_sb_list in this kernel",
    )


def test_processes_that_are_not_understood_are_said() -> None:
    view, lacking = lab_view("default"), Lacking()
    host = Newer("struct task_struct", "tgid")
    assert processes_of(host, view.space, lacking) == ((), None)  # type: ignore[arg-type]
    assert "processes and their memory are not known" in lacking.sentences[0]


def test_trace_buffers_that_are_not_understood_are_said() -> None:
    view, lacking = lab_view("default"), Lacking()
    whole = raw_pages(view.host, view.space, Lacking())
    found = raw_pages(Newer("struct buffer_page", "page"), view.space, lacking)  # type: ignore[arg-type]
    assert 0 < len(found) < len(whole)
    assert np.isin(found, whole).all()
    assert lacking.sentences == (
        "pages of trace buffers count as unaccounted: struct buffer_page has no member page in "
        "this kernel",
    )


def test_modules_that_are_not_understood_end_the_run() -> None:
    """What their variables hold would look leaked."""
    with pytest.raises(UnknownLayout, match="struct module_layout has no member base"):
        list(module_list(Newer("struct module_layout", "base")))  # type: ignore[arg-type]
