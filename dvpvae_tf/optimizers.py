"""The optimizer of the paper, its update computed once for all weights."""

import math

import keras
import tensorflow as tf

from dvpvae_tf.keras_internals import AllWeightsOptimizer


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class Adamax(AllWeightsOptimizer, keras.optimizers.Adamax):
    """Keras's Adamax, computed on one vector of all weights: the same numbers from a graph several times smaller.

    A deep model has hundreds of weights, most of them small, and Keras's update some fifty operations for each of them,
    which take longer to trace than the whole model and, on small batches, long to run. Here the momentum and the norm
    are one vector each. The averaged weights (`use_ema`) are kept as Keras keeps them, so that its
    `keras.callbacks.SwapEMAWeights` works as ever.

    Args:
        learning_rate: float, or what else Keras takes.
        **kwargs: of `keras.optimizers.Adamax`, but for what treats one weight otherwise than another, or several steps
            as one: `clipnorm`, `ema_overwrite_frequency` and `gradient_accumulation_steps`.

    Raises:
        ValueError: if one of those is given; on the first step, if a weight has no gradient.

    Source: Kingma and Ba, "Adam", ICLR 2015, Algorithm 2; Section 6.1 (Table 7).
    """

    def __init__(self, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate, **kwargs)
        for name in ("clipnorm", "ema_overwrite_frequency", "gradient_accumulation_steps"):
            if getattr(self, name):
                raise ValueError(f"dvpvae_tf.Adamax takes no {name}: use keras.optimizers.Adamax.")

    def build(self, variables):
        """Makes the state.

        Args:
            variables: list of `keras.Variable`, float32.
        """
        if self.built:
            return
        super(keras.optimizers.Adamax, self).build(variables)  # all but Keras's momentum and norm of each weight
        size = sum(math.prod(variable.shape) for variable in variables)
        self.momentum = self.add_variable((size,), "zeros", "float32", name="momentum")
        self.norm = self.add_variable((size,), "zeros", "float32", name="norm")

    def update_all(self, gradients, variables):
        """Makes one step, see `AllWeightsOptimizer`."""
        [gradient] = self.clip([as_vector(gradients)])
        arguments = gradient, variables, self.averages
        tf.distribute.get_replica_context().merge_call(self._update_all_devices, args=arguments)

    def _update_all_devices(self, strategy, gradient, variables, averages):
        weights, averages = ([variable.value for variable in group] for group in (variables, averages))
        strategy.extended.update(self.momentum.value, self._update, args=(gradient, self.norm.value, weights, averages))

    def _update(self, momentum, gradient, norm, variables, averages):
        """Makes one step on one device."""
        rate = tf.cast(self.learning_rate, tf.float32)
        weights = as_vector(variables)
        if self.weight_decay is not None:
            weights -= weights * self.weight_decay * rate
        m = momentum.assign_add((gradient - momentum) * (1.0 - self.beta_1))
        u = norm.assign(tf.maximum(self.beta_2 * norm, tf.abs(gradient)))
        bias = 1.0 - tf.pow(self.beta_1, tf.cast(self.iterations + 1, tf.float32))
        weights -= rate * m / (bias * (u + self.epsilon))
        self._assign(variables, weights)
        if averages:
            kept = self.ema_momentum * tf.cast(self.iterations > 0, tf.float32)
            self._assign(averages, kept * as_vector(averages) + (1.0 - kept) * weights)

    def _assign(self, variables, vector):
        for variable, value in zip(variables, as_tensors(vector, variables), strict=True):
            variable.assign(value)


def as_vector(tensors):
    """Joins tensors into one vector.

    Args:
        tensors: list of tensors or variables of one dtype.

    Returns:
        Tensor `[M]` of that dtype.
    """
    flat = tf.constant([-1])
    return tf.concat([tf.reshape(tensor, flat) for tensor in tensors], axis=0)


def as_tensors(vector, like):
    """Takes apart what `as_vector` has joined.

    Args:
        vector: tensor `[M]`.
        like: list of tensors or variables, of the shapes that the parts have.

    Returns:
        list of tensors.
    """
    parts = tf.split(vector, [math.prod(each.shape) for each in like])
    return [tf.reshape(part, each.shape) for part, each in zip(parts, like, strict=True)]
