"""Applications of Shoal on real models and real data; each is run as a module: `python -m examples.demo`."""
