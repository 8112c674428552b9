"""The rows that a model comes with: those it is judged on, and those it may be trained on."""
