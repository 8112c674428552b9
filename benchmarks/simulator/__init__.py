"""Fleets of devices without an interpreter: the agent's own core and conversation, on a real broker.

What is real: the core with its states, presence, status, questions and telemetry, each device's own MQTT session. What
is simulated are the core's ports: a transfer, an unpacking, a self-test take a drawn time and may fail.
"""
