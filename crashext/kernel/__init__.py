"""What the bytes of a kernel mean: one file per subsystem, each layout difference in one place."""
