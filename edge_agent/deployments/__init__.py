"""What becomes of a deployment: the agent's core, a pure state machine. Events in, actions out; no IO."""
