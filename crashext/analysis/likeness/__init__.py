"""How alike objects are: words, scores, groups, and what a group has in common."""
