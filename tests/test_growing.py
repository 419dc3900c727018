"""Arrays that grow piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.growing import Growing


def test_pieces_of_any_length_are_there_in_their_order() -> None:
    rng = np.random.default_rng(1)
    pieces = [
        rng.integers(1 << 30, size=n).astype(np.int32) for n in rng.integers(0, 300_000, size=20)
    ]
    grown: Growing[np.int32] = Growing(np.int32)
    assert not len(grown.array())
    for piece in pieces:
        grown.add(piece)
    assert len(grown) == sum(map(len, pieces)) > 1 << 20
    assert (grown.array() == np.concatenate(pieces)).all()


def test_who_still_looks_at_an_array_does_not_see_it_move() -> None:
    grown: Growing[np.int32] = Growing(np.int32)
    grown.add(np.ones(1, np.int32))
    looked_at = grown.array()
    with pytest.raises(BufferError):
        grown.add(np.ones(1 << 22, np.int32))
    assert looked_at.tolist() == [1]
