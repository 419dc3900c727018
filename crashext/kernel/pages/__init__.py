"""Page frames and areas: what each is used for, page tables, per-CPU memory, huge pages."""
