"""One module a mode: arguments become options, the engine answers, a report is printed."""
