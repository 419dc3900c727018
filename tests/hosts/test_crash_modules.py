"""Which debug files crash has for modules, by what its `mod` prints."""

from __future__ import annotations

from pathlib import Path

from crashext.hosts import crash_text
from crashext.hosts.crash_mod import knows_files, module_files, module_names

_ROW = "{:016x}  {:26}  {:016x}  {:7}  {}"
_MOD = "\n".join(
    (
        "     MODULE       NAME                           TEXT_BASE         SIZE  OBJECT FILE",
        _ROW.format(2**64 - 9, "qemu_fw_cfg", 2**64 - 1, 20480, "(not loaded)  [CONFIG_KALLSYMS]"),
        _ROW.format(2**64 - 8, "leaklab", 2**64 - 1, 36864, "/srv/a dir/leaklab.ko "),
        _ROW.format(2**64 - 7, "virtio_pci", 2**64 - 1, 28672, "/usr/lib/virtio_pci.ko.debug"),
    )
)


def test_files_of_mod_s_are_those_that_it_names() -> None:
    assert module_files(_MOD) == {
        "leaklab": Path("/srv/a dir/leaklab.ko"),
        "virtio_pci": Path("/usr/lib/virtio_pci.ko.debug"),
    }


def test_modules_are_where_mod_says() -> None:
    names = [m.name for m in crash_text.modules(_MOD)]
    assert names == ["qemu_fw_cfg", "leaklab", "virtio_pci"]
    assert crash_text.modules(_MOD)[1].ranges == ((2**64 - 1, 2**64 - 1 + 36864),)


def test_a_line_of_source_is_the_end_of_what_sym_prints() -> None:
    said = "ffffffff811c2f3e (T) alloc_pid+30 /build/linux/kernel/pid.c: 177\n"
    assert crash_text.source_line(said) == "/build/linux/kernel/pid.c:177"
    assert crash_text.source_line("ffffffff811c2f3e (T) alloc_pid+30\n") == ""


def test_types_may_be_in_a_file_where_mod_names_one() -> None:
    assert module_names(_MOD) == {"qemu_fw_cfg", "leaklab", "virtio_pci"}
    assert knows_files(_MOD)
    assert not knows_files("\n".join(_MOD.splitlines()[:2]))
