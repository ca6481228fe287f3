"""The private parts of Keras that this library uses, each with the reason. Tested with Keras 3.15.

`setup.py` allows this minor version only. When Keras changes, only this file needs changes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def parameters_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Lists the weights that are made to be trained, whether or not they are frozen.

    Keras's public `trainable_weights` leaves out the frozen ones.

    Args:
        layer: a layer or model.

    Returns:
        list of variables.
    """
    return [weight for each in layer._flatten_layers() for weight in each._trainable_variables]


def is_rematerialized(layer: keras.layers.Layer) -> bool:
    """Checks whether a layer was made in a `keras.RematScope`; Keras has no public way to ask.

    Args:
        layer: any layer.

    Returns:
        Whether its backward pass computes it again.
    """
    return layer._remat_mode is not None


@contextlib.contextmanager
def adding_weights(layer: keras.layers.Layer) -> Iterator[None]:
    """Allows new weights in a layer that is built; Keras refuses them and has no public way to allow them.

    Args:
        layer: a layer that is built.
    """
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def set_untracked(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute that Keras does not see.

    A variable, layer or metric that is assigned to a layer becomes part of its state: it is listed in the weights and
    saved with them. Keras has no public way to keep one beside that state.

    Args:
        layer: any layer or model.
        name: of the attribute.
        value: of the attribute.
    """
    object.__setattr__(layer, name, value)


class BuiltModel(keras.Model):
    """A model that has all its weights, metrics and shapes when its constructor returns."""

    def _maybe_symbolic_build(self, *args, **kwargs) -> None:
        """Does nothing.

        Before its first step, Keras traces a model that may not be built. To find the shape of the images it averages
        them over the devices, which fails for uint8 images under `tf.distribute`.
        """


def disable_gradient_reduction(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer take gradients as summed over the replicas already.

    Keras clips the gradients of each replica and then sums them, so that clipping does not act on the gradient of the
    whole batch. Our steps sum first and clip then. Keras has no public switch for that.

    Args:
        optimizer: Keras optimizer.
    """
    # It takes and returns pairs of a gradient and a variable: `list` leaves them as they are.
    for each in _with_inner(optimizer):
        each._all_reduce_sum_gradients = list


def start_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Sets averaged weights (`use_ema`) to the weights, as long as the optimizer has made no step.

    Keras's averages start at 0, and replace the weights when `fit` ends, even if no step was made.

    Args:
        optimizer: Keras optimizer, built; one within it that has no weights is not.
    """
    for each in _with_inner(optimizer):
        if each.built and each.use_ema and int(keras.ops.convert_to_numpy(each.iterations)) == 0:
            for average, weight in zip(each._model_variables_moving_average, each._trainable_variables, strict=True):
                average.assign(weight)


def _with_inner(optimizer):
    """The optimizer, and those that a `keras.optimizers.MultiOptimizer` shares the weights out to."""
    return [optimizer, *getattr(optimizer, "optimizers", [])]


class AllWeightsOptimizer(keras.optimizers.Optimizer):
    """An optimizer that updates all weights at once, by its method `update_all(gradients, variables)`.

    Keras's public hook, `update_step`, sees one weight at a time.
    """

    condition: tf.Tensor | bool = True  # whether `update_all` changes anything

    def apply_if(self, condition: tf.Tensor, gradients: list[tf.Tensor], variables: list[keras.Variable]) -> None:
        """Makes a step where a condition holds, else none.

        A branch of the graph would do the same, but takes long to trace: each of hundreds of weights goes into it.

        Args:
            condition: bool scalar.
            gradients: of all weights.
            variables: these weights.

        Raises:
            ValueError: if the optimizer was built for more weights, or for fewer.
        """
        if len(variables) != len(self.trained):
            raise ValueError(
                "Parts were frozen or unfrozen after the optimizer was built: call compile again, with a new optimizer."
            )
        self.condition = condition
        try:
            self.apply(gradients, variables)
        finally:
            self.condition = True
        self.iterations.assign_sub(tf.where(condition, 0, 1))

    def _backend_apply_gradients(self, gradients, variables):
        if len(variables) < len(self._trainable_variables):
            raise ValueError(f"{type(self).__name__} needs the gradients of all weights: use keras.optimizers.Adamax.")
        self.update_all(gradients, variables)

    def clip(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Clips gradients as the arguments `clipvalue` and `global_clipnorm` say; Keras does so in private only."""
        return self._clip_gradients(gradients)

    @property
    def trained(self) -> list[keras.Variable]:
        """The weights that the optimizer was built for."""
        return self._trainable_variables

    def decays(self, variable: keras.Variable) -> bool:
        """Whether weight decay acts on a weight, which `exclude_from_weight_decay` decides."""
        return self._use_weight_decay(variable)

    @property
    def averages(self) -> list[keras.Variable]:
        """The averaged weights, [] without `use_ema`: where `keras.callbacks.SwapEMAWeights` looks for them."""
        return self._model_variables_moving_average if self.use_ema else []
