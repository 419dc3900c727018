"""Where a machine's memory is, and what grew."""
