"""What objects may be: structs laid over them and ranked."""
