"""One adapter per inference runtime, one shape for all: the very code that measures a variant also runs it."""
