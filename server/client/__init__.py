"""The typed Python client of the HTTP API: `RegistryClient(url)`. httpx and the documents; nothing of the server."""

from server.client.client import RegistryClient
from server.client.errors import RegistryClientError
from server.client.export import export_module
from server.client.recipe_files import dump_recipe, load_recipe

__all__ = ["RegistryClient", "RegistryClientError", "dump_recipe", "export_module", "load_recipe"]
