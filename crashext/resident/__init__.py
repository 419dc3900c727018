"""The engine that a crash session keeps: commands come over a socket, what it learnt stays."""
