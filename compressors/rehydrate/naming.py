"""Names of layers: those of the source network, and where it had none, new ones that nothing else bears."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compressors.rehydrate.call import module_path

if TYPE_CHECKING:
    from torch import fx

    from compressors.rehydrate.weighted import Layer

_END_OF_WEIGHT = re.compile(r"[._](weight|kernel)$")


class Names:
    """The names that a network has given."""

    def __init__(self, source: fx.GraphModule) -> None:
        self._paths = {module_path(node)[0] for node in source.graph.nodes}
        self._constants = {str(node.target) for node in source.graph.nodes if node.op == "get_attr"}
        names = self._constants | self._paths
        self._containers = {name[: match.start()] for name in names for match in re.finditer(r"\.", name)}
        self._layers: dict[str, tuple[str, dict[str, str]]] = {}

    def layer(self, node: fx.Node, layer: Layer) -> tuple[str, bool]:
        """The name for the layer that a node of the source is, and whether it is new.

        It is an earlier one's name where both calls are of one module of the source, or use the same weights alike.
        """
        path, kind = module_path(node)
        identity = (repr(layer.module), {leaf: str(weight.target) for leaf, weight in layer.weights.items()})
        is_module = bool(path) and kind == type(layer.module).__name__
        wanted = path if is_module else self._name_of_function(path, layer)
        may_share = is_module or bool(layer.weights)
        name, count = wanted, 0
        while not self._fits(name, identity, may_share=may_share, is_module=is_module):
            count += 1
            name = f"{wanted}_{count}"
        is_new = name not in self._layers
        self._layers[name] = identity
        return name, is_new

    def constant(self, name: str) -> str:
        """The name for a weight that no layer holds: its own, unless it is a layer's, or would become part of one.

        A layer without a bias has one from then on, if it gets an attribute of that name.
        """
        while True:
            owner, _, leaf = name.rpartition(".")
            if owner in self._layers:
                name = f"{owner}_{leaf}"
            elif name in self._layers:
                name = f"{name}_value"
            else:
                return name

    def _name_of_function(self, path: str, layer: Layer) -> str:
        if "weight" in layer.weights:
            weight = str(layer.weights["weight"].target)
            return _END_OF_WEIGHT.sub("", weight) if _END_OF_WEIGHT.search(weight) else f"{weight}_layer"
        name = type(layer.module).__name__.lower()
        return f"{path}.{name}" if path else name

    def _fits(self, name: str, identity: tuple[str, dict[str, str]], *, may_share: bool, is_module: bool) -> bool:
        if name in self._layers:
            return may_share and self._layers[name] == identity
        if name in self._constants:
            return False
        has_weights = bool(identity[1])
        return has_weights or is_module or name not in self._paths | self._containers
