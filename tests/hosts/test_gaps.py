"""What is read with the bytes between is what is read one by one, holes among them too."""

from __future__ import annotations

import numpy as np

from tests.conftest import lab_host, lab_view


def test_neighbours_with_gaps_are_as_each_alone() -> None:
    host, view = lab_host("default"), lab_view("default")
    rng = np.random.default_rng(0)
    start = view.space.direct.start + (1 << 20)
    near = start + np.cumsum(rng.choice([8, 32, 64, 520, 600, 5000], 400)).astype(np.uint64)
    present = host.present()
    assert present is not None
    # Where the direct map ends: what is wanted is there, what follows is not.
    end = view.space.direct.start + present[0][1]
    edge = np.uint64(end - 640) + np.arange(0, 1280, 40, dtype=np.uint64)
    for addresses in (near, rng.permutation(near), edge):
        for size in (8, 48):
            rows, ok = host.read_many(addresses, size)
            for address, row, good in zip(addresses.tolist(), rows, ok.tolist(), strict=True):
                one, alone = host.read_many(np.array([address], np.uint64), size)
                assert (good, row.tobytes()) == (bool(alone[0]), one[0].tobytes())
    assert not ok.all()
    assert ok.any()
