"""How a variant travels: its files as one payload, the payload as one object, and the manifest that checks both."""
