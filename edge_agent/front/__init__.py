"""The process that accepts on the shared port when several models run here: it forwards to each model's own runner.

No numpy, no interpreter, no model: what it loses when it dies is only the requests that it was forwarding.
Decided in docs/adr/0001-who-accepts.md.
"""
