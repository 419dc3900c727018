"""What is said of objects that the kernel allocates for whoever asks."""

from __future__ import annotations

from crashext.analysis.origin.callers import in_words
from crashext.analysis.results.callsites import Callers, CallSite, Candidate
from crashext.hosts.base import U64


def callers(remark: str, *probabilities: float) -> Callers:
    sites = [CallSite(f"f{i}", 8, "", U64(i), "a", False, ()) for i in range(len(probabilities))]
    ranked = [Candidate(s, p, ()) for s, p in zip(sites, probabilities, strict=True)]
    return Callers(tuple(ranked), 40, 0, clear=False, equals=len(ranked), remark=remark)


def test_a_few_that_stand_out_together_are_named_with_what_to_keep_in_mind() -> None:
    (line,) = in_words(callers("look for who took it", 0.6, 0.39))
    assert line == "by the code, allocated by one of f0, f1: look for who took it"


def test_otherwise_nothing_is_said() -> None:
    assert in_words(callers("", 0.6, 0.39)) == ()
    assert in_words(callers("look for who took it", 0.3, 0.29)) == ()
    assert in_words(None) == ()
