"""Where the mark begins: stacks, and the variables and pages outside slab objects."""
