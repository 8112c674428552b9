"""The registry: catalogue, storage, jobs, rollouts, telemetry, HTTP API, command line."""
