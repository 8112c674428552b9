"""Two ends of a shadow: the active runner copies requests, the new one answers them for itself and compares."""
