"""Where memory comes from: one file per host, all speaking the `Host` protocol of `base`."""
