"""`epython crashrc.py ENGINE`, from ~/.crashrc: adds the commands and remembers the engine."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(sys.argv[0])))
import crashext_commands
import crashext_engine
import crashext_output
import crashext_scroll

crashext_output.prepare()
crashext_scroll.restore()
if len(sys.argv) > 1:
    crashext_engine.REMEMBERED[0] = sys.argv[1]
if not crashext_commands.register():
    crashext_output.tell(
        "crashext: cannot add leakscan and objsim; before starting crash, set "
        f"PYKDUMPPATH={crashext_commands.HERE}"
    )
elif not crashext_commands.take_over_extend():
    crashext_output.tell(
        "crashext: 'extend FILE.py' will not work in this crash: type 'epython FILE.py'"
    )
