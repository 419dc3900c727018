"""Files of a machine that are named one by one: `leakscan proc/*`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.procfs.saved import NothingRecognised
from crashext.procfs.together import moments

MEMINFO = "MemTotal:        8000000 kB\nMemFree:         {} kB\nMemAvailable:    2000000 kB\n"
SLABINFO = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables"
    " <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
    "kmalloc-64         {0}  {0}     64   64    1 : tunables    0    0    0 : slabdata"
    "     10     10      0\n"
)
OOM = (
    "[  100.0] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
    "[  100.0] Mem-Info:\n"
    "[  100.0] active_anon:100 inactive_anon:200 isolated_anon:0\n"
    "[  100.0]  slab_reclaimable:300 slab_unreclaimable:400\n"
    "[  100.0] Node 0 DMA32 free:1000kB min:10kB low:20kB high:30kB\n"
    "[  100.0] 2000000 pages RAM\n"
)


def written(folder: Path, **texts: str) -> list[Path]:
    paths = []
    for name, text in texts.items():
        paths.append(folder / name.replace("__", "."))
        paths[-1].write_text(text)
    return paths


def kinds(paths: list[Path]) -> list[set[str]]:
    return [set(moment.kinds) for moment in moments(paths)]


def test_files_of_different_kinds_are_one_moment(tmp_path: Path) -> None:
    paths = written(tmp_path, meminfo=MEMINFO.format(1), slabinfo=SLABINFO.format(640))
    (moment,) = moments(paths)
    assert set(moment.kinds) == {"meminfo", "slabinfo"}
    assert moment.path == tmp_path
    assert {one.name for one in moment.recognised} == {"meminfo", "slabinfo"}
    assert "".join(moment.lines("meminfo")).startswith("MemTotal:")


def test_a_kind_that_comes_again_begins_the_next_moment(tmp_path: Path) -> None:
    paths = written(
        tmp_path,
        meminfo__1=MEMINFO.format(1),
        slabinfo__1=SLABINFO.format(640),
        meminfo__2=MEMINFO.format(2),
        slabinfo__2=SLABINFO.format(1280),
    )
    assert kinds(paths) == [{"meminfo", "slabinfo"}] * 2
    assert kinds(paths[::2]) == [{"meminfo"}] * 2
    sorted_by_name = moments(sorted(paths))
    names = [{one.name for one in moment.recognised} for moment in sorted_by_name]
    assert names == [{"meminfo.1", "slabinfo.1"}, {"meminfo.2", "slabinfo.2"}]
    assert kinds([paths[0], paths[2], paths[3]]) == [{"meminfo"}, {"meminfo", "slabinfo"}]


def test_one_may_be_named_from_here_and_one_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, meminfo=MEMINFO.format(1), slabinfo=SLABINFO.format(640))
    monkeypatch.chdir(tmp_path)
    (moment,) = moments([Path("meminfo"), paths[1]])
    assert moment.path == tmp_path


def test_a_report_of_a_moment_that_is_over_stays_alone(tmp_path: Path) -> None:
    paths = written(tmp_path, dmesg=OOM, meminfo=MEMINFO.format(1))
    assert len(moments(paths)) == 2


def test_folders_are_moments_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "monday", tmp_path / "tuesday"]
    for folder, text in zip(folders, ({"meminfo": MEMINFO}, {"slabinfo": SLABINFO}), strict=True):
        folder.mkdir()
        written(folder, **{name: form.format(64) for name, form in text.items()})
    assert kinds(folders) == [{"meminfo"}, {"slabinfo"}]


def test_files_of_no_known_kind_are_named_and_left(tmp_path: Path) -> None:
    paths = written(
        tmp_path, cmdline="ro quiet\n", meminfo=MEMINFO.format(1), notes="call the customer\n"
    )
    (tmp_path / "bus").mkdir()
    (moment,) = moments([tmp_path / "bus", *paths])
    (problem,) = moment.problems
    assert (problem.count, problem.effect) == (3, "not recognised: bus, cmdline, notes")


def test_a_picture_among_them_is_not_read(tmp_path: Path) -> None:
    paths = written(tmp_path, meminfo=MEMINFO.format(1))
    (tmp_path / "graph.png").write_bytes(bytes(range(256)) * 16)
    (moment,) = moments([tmp_path / "graph.png", *paths])
    (problem,) = moment.problems
    assert (problem.what, problem.effect) == ("graph.png", "not read: it is no text")
    with pytest.raises(HostError, match="No such file"):
        moments([tmp_path / "slabinof", *paths])


def test_nothing_but_such_files_is_an_error_that_names_one(tmp_path: Path) -> None:
    paths = written(tmp_path, cmdline="ro quiet\n", notes="call the customer\n")
    with pytest.raises(NothingRecognised, match=r"nothing in .*/cmdline is recognised"):
        moments(paths)


def test_of_many_files_that_are_no_text_all_are_counted(tmp_path: Path) -> None:
    pictures = [tmp_path / f"picture{i}.png" for i in range(8)]
    for picture in pictures:
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (moment,) = moments([*written(tmp_path, meminfo=MEMINFO.format(1)), *pictures])
    assert sum(problem.count for problem in moment.problems) == len(pictures)
    assert len(moment.problems) < len(pictures)
