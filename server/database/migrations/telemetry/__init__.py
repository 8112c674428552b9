"""Steps of the telemetry."""
