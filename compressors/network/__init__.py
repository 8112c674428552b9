"""What is known of a network's layers, and how one is exchanged for others."""
