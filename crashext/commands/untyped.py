"""What can be answered of a kernel whose types nobody knows: partial answers, each of them proved.

Raw words (`objsim ADDR`) and the list of caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashext.analysis.likeness.survey import kernel_of
from crashext.analysis.results.reports import CachesReport
from crashext.analysis.untyped import words_there
from crashext.commands.addresses import address_of
from crashext.commands.options import ExcerptOptions, ObjsimOptions, Options, ProcfsOptions
from crashext.commands.output import Output
from crashext.commands.telling import tell
from crashext.kernel.slab.untyped import untyped_caches
from crashext.report.documents import document
from crashext.report.objsim_text import print_similarity_report
from crashext.report.untyped_text import print_untyped_caches

if TYPE_CHECKING:
    from crashext.commands.opening import NoTypes


_NO_SESSION = "{} is not written: a session holds answers that rest on types; keep --json"
_NO_PAGE = "{} is not written: there is no page of this"


def answer(program: str, options: Options, less: NoTypes) -> Output | None:
    """What is known all the same; None where that is nothing of what was asked."""
    tell(program, str(less))
    host, printing = less.host, options.printing
    if isinstance(options, ExcerptOptions | ProcfsOptions):
        return None
    unwritten = ((options.source.record, _NO_SESSION), (printing.html, _NO_PAGE))
    for path, why in unwritten:
        if path is not None:
            tell(program, why.format(path))
    if isinstance(options, ObjsimOptions):
        if options.list or options.as_type is not None:
            return None
        addresses = [address_of(host, text) for text in options.addresses]
        words = words_there(host, addresses, options.settings)
        return Output(
            text=lambda console: print_similarity_report(words, console, printing.verbose),
            json=lambda: document(words),
            lost=options.source.record is not None,
        )
    report = CachesReport(kernel_of(host), str(less), untyped_caches(host))
    return Output(
        text=lambda console: print_untyped_caches(report.caches, console, printing.verbose),
        json=lambda: document(report),
        lost=True,
    )
