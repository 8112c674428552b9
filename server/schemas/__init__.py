"""The documents of the HTTP API, shared by the server and its clients. pydantic only: no database, no web framework."""
