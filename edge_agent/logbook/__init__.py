"""The device's own log: what the agent says, kept on disk within a limit, and without anything secret."""
