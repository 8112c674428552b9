"""One algorithm per file, one shape for all: a step takes a model and its context, gives a model and a record."""
