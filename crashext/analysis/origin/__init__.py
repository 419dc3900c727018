"""Who allocated: the ladder of records, content, traces."""
