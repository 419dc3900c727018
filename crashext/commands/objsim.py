"""`objsim ADDR...` and `objsim --text FILE`: how alike objects are, and what is like one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crashext.analysis.results.reports import SimilarityReport
from crashext.commands.addresses import address_of
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import ExcerptOptions, ObjsimOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question, options_of
from crashext.hosts.base import HostError
from crashext.progress import Progress
from crashext.report.objsim_text import nothing_there, print_similarity_report


def answer(options: ObjsimOptions, place: Place, progress: Progress) -> Output:
    from crashext.analysis.objects import compare

    asked = options_of(options.settings, options.refs, options.list)
    question = Question("objsim", options.addresses, options=asked)
    with open_view(open_host(options.source, place), options.source.record, question) as opened:
        report = compare(
            opened.view,
            [address_of(opened.view.host, text) for text in options.addresses],
            options.settings,
            options.list,
            progress,
            opened.budget,
            options.as_type,
            options.refs,
        )
    return _printed(report, options.printing.verbose, opened.lost, options.addresses)


def answer_excerpt(options: ExcerptOptions, place: Place, progress: Progress) -> Output:
    from crashext.analysis.excerpt import compare_text

    report = compare_text(_read_text(options.text), options.size, options.settings)
    return _printed(report, options.printing.verbose)


def _printed(
    report: SimilarityReport, verbose: bool, lost: bool = False, typed: Sequence[str] = ()
) -> Output:
    def json() -> str:
        from crashext.report.documents import document  # few runs print it, and it brings much

        return document(report)

    listed = None if report.kin is None else report.kin.listed
    return Output(
        text=lambda console: print_similarity_report(report, console, verbose, typed),
        json=json,
        listed=np.zeros(0, np.uint64) if listed is None else listed,
        lost=lost,
        nothing=nothing_there(report),
    )


def _read_text(name: str) -> str:
    from crashext.analysis.excerpt import MAX_TEXT

    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_TEXT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise HostError(f"cannot read {name}: {error.strerror}") from error
    if len(data) > MAX_TEXT:
        raise HostError(
            f"{name} is larger than {MAX_TEXT >> 20} MiB: cut out the objects of one cache"
        )
    return data.decode("utf-8", "backslashreplace")
