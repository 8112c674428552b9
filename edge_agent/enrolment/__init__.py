"""How a device gets its certificate and keeps it: programs that exit, because `cryptography` weighs 9 MB."""
