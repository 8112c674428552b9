"""The registry: catalogue, storage, jobs, rollouts, telemetry, HTTP API and command line."""
