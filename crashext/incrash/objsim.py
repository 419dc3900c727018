"""`objsim` inside crash: starts the engine, or, alone on the first call, adds the commands."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(sys.argv[0])))
import crashext_start

crashext_start.start("objsim", sys.argv[1:])
