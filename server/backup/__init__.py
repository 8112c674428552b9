"""A whole registry as a folder, and back: databases, objects, and the addresses and keys that devices know it by."""
