"""Debug files from the servers that $DEBUGINFOD_URLS names, said before and after."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crashext.report.safe import safe

if TYPE_CHECKING:
    from crashext.hosts.nodebuginfo import NoDebugInfo

GO_ON = "--no-debuginfod, or Ctrl-C once, goes on without"


def downloaded(missing: NoDebugInfo) -> bool:
    """Whether the debug info that was `missing` came from a server; asks only where one is set."""
    from crashext.hosts.debuginfod import download, servers

    asked = ", ".join(servers())
    if not asked or not missing.build_id:
        return False
    _say(f"no debug info here for {missing.kernel}: asking {asked} for it ({GO_ON})")
    why = download(missing.program, missing.build_id)
    _say(f"debug info of {missing.kernel} from {asked}: {why or 'loaded'}")
    return not why


def _say(line: str) -> None:
    print(safe(line), file=sys.stderr, flush=True)
