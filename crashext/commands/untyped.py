"""What can be answered of a kernel whose types nobody knows: partial answers, each of them proved.

Raw words (`objsim ADDR`) and the list of caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from crashext.analysis.untyped import words_there
from crashext.commands.objsim import address_of
from crashext.commands.options import ExcerptOptions, ObjsimOptions, Options
from crashext.commands.output import Output
from crashext.commands.telling import tell
from crashext.hosts.base import Host
from crashext.kernel.slab.untyped import untyped_caches
from crashext.report.documents import document
from crashext.report.objsim_text import print_similarity_report
from crashext.report.untyped_text import print_untyped_caches

if TYPE_CHECKING:
    from crashext.commands.opening import NoTypes


def answer(program: str, options: Options, less: NoTypes) -> Output | None:
    """What is known all the same; None where that is nothing of what was asked."""
    tell(program, str(less))
    host, printing = less.host, options.printing
    if isinstance(options, ObjsimOptions) and not options.list and options.as_type is None:
        addresses = [address_of(host, text) for text in options.addresses]
        report = words_there(host, addresses, options.settings)
        return Output(
            text=lambda console: print_similarity_report(report, console, printing.verbose),
            json=lambda: document(report),
        )
    if isinstance(options, ObjsimOptions | ExcerptOptions) or printing.json:
        return None
    return Output(
        text=lambda console: _caches(console, host, printing.verbose), json=str, lost=True
    )


def _caches(console: Console, host: Host, verbose: bool) -> None:
    print_untyped_caches(untyped_caches(host), console, verbose)
