"""The registry's tables, how they are opened, and their migrations. Who writes a table stands beside it."""
