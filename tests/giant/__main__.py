"""``python -m tests.giant SHAPE FILE``: extend a lab's dump to a machine of that shape."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.lab import build, scenario

from .make import make
from .shape import SHAPES


def main() -> None:
    """Make one machine; print the truth about it."""
    parser = argparse.ArgumentParser(prog="python -m tests.giant", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--base", default="nodes", help="the lab's scenario that is extended")
    options = parser.parse_args()
    print(json.dumps(make(build(scenario(options.base)), SHAPES[options.shape], options.file)))


if __name__ == "__main__":
    main()
