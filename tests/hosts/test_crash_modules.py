"""Which debug files crash has for modules, by what its `mod` prints."""

from __future__ import annotations

from crashext.hosts.crash import LOADED

_ROW = "{:016x}  {:26}  {:016x}  {:7}  {}"
_MOD = "\n".join(
    (
        "     MODULE       NAME                           TEXT_BASE         SIZE  OBJECT FILE",
        _ROW.format(2**64 - 9, "qemu_fw_cfg", 2**64 - 1, 20480, "(not loaded)  [CONFIG_KALLSYMS]"),
        _ROW.format(2**64 - 8, "leaklab", 2**64 - 1, 36864, "/root/a dir/leaklab.ko "),
        _ROW.format(2**64 - 7, "virtio_pci", 2**64 - 1, 28672, "/usr/lib/virtio_pci.ko.debug"),
    )
)


def test_files_of_mod_s_are_those_that_it_names() -> None:
    assert LOADED.findall(_MOD) == [
        ("leaklab", "/root/a dir/leaklab.ko"),
        ("virtio_pci", "/usr/lib/virtio_pci.ko.debug"),
    ]
