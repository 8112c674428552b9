"""The child process that holds one model: loads it, proves it, serves it, and leaves when its last client has."""
