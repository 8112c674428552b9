"""What devices say, into the database: telemetry, presence and status. Acknowledged only once it is committed."""
