"""The compiled functions of a model: each is traced once, and traced again where the model has become another one."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import keras

Compiled = TypeVar("Compiled")


class GraphCache:
    """The compiled functions of one model, by name.

    A graph reads the weights when it runs, but the model's config is built into it, and which weights there are. So all
    functions are dropped as soon as one of these has changed, as after `calibrate`, or after `enable_lora` of a layer.
    What Keras compiles for `fit`, `evaluate` and `predict` is not here: Keras keeps it until `compile` is called.

    Args:
        model: the model; it holds the cache as `model.graphs`.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._config: dict[str, Any] | None = None
        self._variables: list[keras.Variable] = []
        self._functions: dict[Hashable, Any] = {}

    def get(self, name: Hashable, make: Callable[[], Compiled]) -> Compiled:
        """Gives a compiled function of the model as it is now.

        Args:
            name: of the function, with all Python values that its graph depends on, such as T.
            make: makes the function, where there is none of this name.

        Returns:
            What `make` has given, now or earlier.
        """
        if name not in self:
            self._functions[name] = make()
        return self._functions[name]

    def __contains__(self, name: Hashable) -> bool:
        config, variables = self._model.get_config(), self._model.variables
        if config != self._config or [*map(id, variables)] != [*map(id, self._variables)]:
            self._config, self._variables, self._functions = config, variables, {}
        return name in self._functions
