"""The formats that models come in: a gate for each, which reads the file by itself before any library loads it."""
