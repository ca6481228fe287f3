"""The optimizer of the paper, its update computed once for all weights; and steps that may be skipped."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.backend.keras_internals import AllWeightsOptimizer, disable_gradient_reduction

MOST_MOMENTUM = 0.999
OTHER_STATE = "The saved state of the optimizer does not fit these weights"


@keras.saving.register_keras_serializable(package="dvpvae_tf", name="Adamax")
class FusedAdamax(AllWeightsOptimizer, keras.optimizers.Adamax):
    """Adamax with one update of all weights: the same numbers as `keras.optimizers.Adamax`, from a far smaller graph.

    A deep model has hundreds of weights, and Keras's update has some fifty operations for each. They take longer to
    trace than the whole model. Here the momentum and the norm are one vector each. Keras keeps the averaged weights
    (`use_ema`), so that `keras.callbacks.SwapEMAWeights` works.

    Args:
        learning_rate: a number or a schedule of Keras.
        ema_momentum: of the averaged weights. None, the default, averages over a tenth of the steps so far, up to a
            momentum of 0.999 (Table 7), so that the average is good after any number of steps.
        **kwargs: of `keras.optimizers.Adamax`, except `clipnorm`, `ema_overwrite_frequency` and
            `gradient_accumulation_steps`.

    Raises:
        ValueError: if one of those is given; on the first step, if a weight has no gradient.

    Source: Kingma and Ba, "Adam", ICLR 2015, Algorithm 2; Section 6.1 (Table 7).
    """

    def __init__(self, learning_rate: float = 0.001, ema_momentum: float | None = None, **kwargs: Any):
        super().__init__(learning_rate, ema_momentum=MOST_MOMENTUM if ema_momentum is None else ema_momentum, **kwargs)
        self.grows_window = ema_momentum is None
        for name in ("clipnorm", "ema_overwrite_frequency", "gradient_accumulation_steps"):
            if getattr(self, name):
                raise ValueError(f"dvpvae_tf.FusedAdamax takes no {name}: use keras.optimizers.Adamax.")

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the state for float32 variables."""
        if self.built:
            return
        super(keras.optimizers.Adamax, self).build(variables)  # all but Keras's momentum and norm of each weight
        size = sum(math.prod(variable.shape) for variable in variables)
        self.momentum = self.add_variable((size,), "zeros", "float32", name="momentum")
        self.norm = self.add_variable((size,), "zeros", "float32", name="norm")

    def update_all(self, gradients: list[tf.Tensor], variables: list[keras.Variable]) -> None:
        """Makes one step of all weights."""
        [gradient] = self.clip([as_vector(gradients)])
        arguments = self.condition, gradient, variables, self.averages
        tf.distribute.get_replica_context().merge_call(self._update_all_devices, args=arguments)

    def _update_all_devices(self, strategy, condition, gradient, variables, averages):
        weights, averages = ([variable.value for variable in group] for group in (variables, averages))
        arguments = condition, gradient, self.norm.value, weights, averages
        strategy.extended.update(self.momentum.value, self._update, args=arguments)

    def _update(self, momentum, condition, gradient, norm, variables, averages):
        """Makes one step on one device, where the condition holds."""

        def choose(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
            return tf.where(condition, new, old)

        rate = tf.cast(self.learning_rate, tf.float32)
        old = weights = as_vector(variables)
        if self.weight_decay is not None:
            weights -= weights * self._decays(variables) * rate
        m = momentum.assign(choose(momentum + (gradient - momentum) * (1.0 - self.beta_1), momentum))
        u = norm.assign(choose(tf.maximum(self.beta_2 * norm, tf.abs(gradient)), norm))
        bias = 1.0 - tf.pow(self.beta_1, tf.cast(self.iterations + 1, tf.float32))
        weights = choose(self._constrained(weights - rate * m / (bias * (u + self.epsilon))), old)
        self._assign(variables, weights)
        if averages:
            kept, average = self._kept_of_averages(), as_vector(averages)
            self._assign(averages, choose(kept * average + (1.0 - kept) * weights, average))

    def _constrained(self, weights):
        """The weights as Keras leaves them after the step, when it applies their constraints: these are averaged."""
        constraints = [variable.constraint or tf.identity for variable in self.trained]
        parts = as_tensors(weights, self.trained)
        return as_vector([constraint(part) for constraint, part in zip(constraints, parts, strict=True)])

    def _decays(self, variables):
        """The weight decay: of each element, 0 in variables that `exclude_from_weight_decay` names; else a number."""
        decays = [self.weight_decay if self.decays(variable) else 0.0 for variable in self.trained]
        if len(set(decays)) == 1:
            return decays[0]
        return as_vector([tf.fill(variable.shape, decay) for variable, decay in zip(variables, decays, strict=True)])

    def _kept_of_averages(self):
        """The factor of the averages so far, 0 in the first step."""
        steps = tf.cast(self.iterations, tf.float32)
        if self.grows_window:
            return tf.minimum(self.ema_momentum, steps / (steps + 10.0))
        return self.ema_momentum * tf.cast(steps > 0.0, tf.float32)

    def _assign(self, variables, vector):
        for variable, value in zip(variables, as_tensors(vector, variables), strict=True):
            variable.assign(value)

    def load_own_variables(self, store: dict[str, Any]) -> None:
        """Loads the state. One that does not fit the weights is left out with a warning, as Keras does it."""
        saved = [tuple(store[str(index)].shape) for index in range(len(store.keys()))]
        if saved != [tuple(variable.shape) for variable in self.variables]:
            warnings.warn(f"{OTHER_STATE}: training starts with a new one.", stacklevel=2)
            return
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ema_momentum": None if self.grows_window else self.ema_momentum}


def apply_if(
    optimizer: keras.optimizers.Optimizer,
    condition: tf.Tensor,
    gradients: list[tf.Tensor],
    variables: list[keras.Variable],
) -> None:
    """Makes a step where a condition holds, else none; for a replica's graph.

    Args:
        optimizer: built for these variables.
        condition: bool scalar, the same on all replicas.
        gradients: of all variables, summed over the replicas already.
        variables: what is updated.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        disable_gradient_reduction(optimizer)
    if isinstance(optimizer, AllWeightsOptimizer):
        optimizer.apply_if(condition, gradients, variables)
        return

    def apply():
        optimizer.apply(gradients, variables)

    def decide(strategy, condition):
        # The choice is made outside the replicas: the optimizer cannot update variables inside a replica's branch.
        condition = strategy.experimental_local_results(condition)[0]
        tf.cond(condition, lambda: strategy.extended.call_for_each_replica(apply), lambda: None)

    tf.distribute.get_replica_context().merge_call(decide, args=(condition,))


def as_vector(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins tensors into one vector.

    Args:
        tensors: tensors or variables of one dtype, M numbers together.

    Returns:
        `[M]` of that dtype.
    """
    flat = tf.constant([-1])
    return tf.concat([tf.reshape(tensor, flat) for tensor in tensors], axis=0)


def as_tensors(vector: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Splits a vector that `as_vector` has made.

    Args:
        vector: `[M]`.
        like: tensors or variables of the shapes that the parts have.

    Returns:
        The parts.
    """
    parts = tf.split(vector, [math.prod(each.shape) for each in like])
    shapes = [tuple(each.shape) for each in like]
    constants = {shape: tf.constant(shape, tf.int32) for shape in dict.fromkeys(shapes)}
    return [tf.reshape(part, constants[shape]) for part, shape in zip(parts, shapes, strict=True)]
