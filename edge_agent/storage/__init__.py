"""What a device keeps on its disk: state, installed variants, and how files become durable."""
