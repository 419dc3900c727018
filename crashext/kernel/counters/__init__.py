"""The kernel's own counts: meminfo, vmstat, clocks, RCU's backlog, processes."""
