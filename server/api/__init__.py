"""The HTTP API: thin routes over `server.catalogue` and `server.fleet`."""
