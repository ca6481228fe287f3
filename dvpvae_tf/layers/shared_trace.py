"""One traced function for all blocks of a kind: the graph of a deep model takes long to trace."""

from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.backend.keras_internals import is_rematerialized, parameters_of


class SharedTrace:
    """Calls layers so that, in a graph, those of one config and one input shape share a traced function.

    Their weights are inputs of that function. TensorFlow puts its operations in the place of each call before it runs
    them, so that a step computes the same as without sharing.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    def __reduce__(self) -> tuple:
        return SharedTrace, ()  # a copied layer traces anew

    def __call__(self, layer: keras.layers.Layer, *arguments: Any, **options: Any) -> Any:
        """Calls a layer.

        Args:
            layer: a built layer. It shares no trace outside of graphs, if it is rematerialised, or if it has states,
                as dropout has.
            *arguments: of its call.
            **options: of its call.

        Returns:
            What the layer returns.
        """
        if not tf.inside_function() or is_rematerialized(layer):
            return layer(*arguments, **options)
        weights = parameters_of(layer)
        if len(layer.variables) > len(weights):
            return layer(*arguments, **options)
        key = f"{type(layer)} {layer.get_config() | {'name': None}} {[weight.shape for weight in weights]}"
        if key not in self._functions:
            self._functions[key] = tf.function(_stateless(layer), autograph=False)
        return self._functions[key]([tf.convert_to_tensor(weight.value) for weight in weights], arguments, options)


def _stateless(layer):
    """The call of a layer as a function of its weights too."""

    def call(weights, arguments, options):
        with keras.StatelessScope(list(zip(parameters_of(layer), weights, strict=True))):
            return layer(*arguments, **options)

    return call
