"""What single words are said to mean."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.likeness.consensus import consensus
from crashext.analysis.likeness.decode import Decoder, number_text
from crashext.analysis.likeness.words import Classifier, Kind
from crashext.kernel.errnos import ERRNOS, error_name


def meaning(word: int) -> str:
    """Of a word at the start of an object far from any kernel address."""
    classifier = Classifier()
    content = np.frombuffer(word.to_bytes(8, "little"), np.uint8)[None]
    words = classifier.classify(content, np.array([1 << 20], np.uint64))
    kind = Kind(int(words.kinds[0, 0]))
    return Decoder(None, None, classifier).meaning(word, kind, 0, int(words.details[0, 0]))


def halves(low: int, high: int) -> int:
    return (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ((1 << 64) - 110, "-ETIMEDOUT (error pointer)"),
        ((1 << 64) - 517, "-EPROBE_DEFER (error pointer)"),  # no number of user space
        ((1 << 64) - 4000, "-4000 (error pointer)"),
        ((1 << 64) - 1, "-1"),
        (halves(-110, 0), "-110 (-ETIMEDOUT), 0 (two 32-bit numbers)"),
        (halves(0, -110), "0, -110 (-ETIMEDOUT) (two 32-bit numbers)"),
        (halves(-12, 7), "-12 (-ENOMEM), 7 (two 32-bit numbers)"),
        (halves(7, -12), "7, -12 (-ENOMEM) (two 32-bit numbers)"),
        (halves(-5, -22), "-5 (-EIO), -22 (-EINVAL) (two 32-bit numbers)"),
        (halves(-1, 3), "-1, 3 (two 32-bit numbers)"),
        (halves(4, 5), "4, 5 (two 32-bit numbers)"),
        (110, "110"),
        (halves(0x12345678, -110), ""),  # the other half is no number: a hash
    ],
)
def test_errors_have_names_in_words_and_in_halves(word: int, text: str) -> None:
    assert meaning(word) == text


def test_numbers_of_a_member() -> None:
    assert number_text(0xFFFFFF92, 32) == "-110 (-ETIMEDOUT)"
    assert number_text(0xFFFFFFFF, 32) == "-1"  # not -EPERM: -1 means much
    assert number_text(0x7FFFFFFF, 32) == str(0x7FFFFFFF)


def test_an_error_name_is_that_of_linux_and_only_of_an_error() -> None:
    assert (ERRNOS[11], ERRNOS[12], ERRNOS[110], ERRNOS[133]) == (
        "EAGAIN",
        "ENOMEM",
        "ETIMEDOUT",
        "EHWPOISON",
    )
    assert [error_name(n) for n in (-110, 110, -1, 0, -41, -4095)] == ["-ETIMEDOUT"] + [""] * 5


def test_how_an_error_varies_over_a_group_is_said_in_negative_numbers() -> None:
    classifier = Classifier()
    content = np.array([[halves(-110 - i % 3, 7)] for i in range(30)], np.uint64)
    where = np.arange(30, dtype=np.uint64) + np.uint64(1 << 20)
    words = classifier.classify(content.view(np.uint8), where)
    (column,) = consensus(words, np.arange(30), 0, 30, None)
    assert column.varies == "low half 3 values, -112 to -110"
