"""What analyses find, as plain data: all that passes on to verdicts, sessions and reports."""
