"""A full mixture for each class: a prior over pseudoinputs that can be asked for one label."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError, did_you_mean, list_some
from dvpvae_tf.noise import to_uniform
from dvpvae_tf.priors.full_mixture import FullMixturePrior
from dvpvae_tf.priors.prior import Prior

NO_LABELS = "This model has no labels: train --labels ends with some, fit_prior --labels gives some to a trained model."


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class LabelledMixturePrior(FullMixturePrior):
    """A mixture of Gaussians with full covariances for each class: r(u) = sum over c of p(c) r(u|c).

    Without a label it is the `FullMixturePrior` of all their Gaussians. Labels are 0, 1, ..., C - 1.

    Args:
        class_components: how many Gaussians each class has, C numbers.
        class_names: the names of the classes; none where the labels are mere numbers.
        **kwargs: passed to `FullMixturePrior`.
    """

    def __init__(self, class_components: Sequence[int], class_names: Sequence[str] = (), **kwargs: Any):
        super().__init__(sum(class_components), **kwargs)
        self.class_components = tuple(class_components)
        self.class_names = tuple(class_names)

    @classmethod
    def join(
        cls, mixtures: Sequence[FullMixturePrior], frequencies: Sequence[float], class_names: Sequence[str] = ()
    ) -> "LabelledMixturePrior":
        """Makes the prior of the mixtures of all classes.

        Args:
            mixtures: built, one for each class.
            frequencies: p(c), positive, of sum 1.
            class_names: of the classes, or none.

        Returns:
            The prior, with the name "prior" as in all models of this library.
        """
        prior = cls([mixture.components for mixture in mixtures], class_names, name="prior")
        prior.build((None, *mixtures[0].shape))
        weights = [mixture.log_weights.numpy() + math.log(p) for mixture, p in zip(mixtures, frequencies, strict=True)]
        prior.log_weights.assign(np.concatenate(weights))
        prior.means.assign(np.concatenate([mixture.means.numpy() for mixture in mixtures]))
        prior.covariances.assign(np.concatenate([mixture.covariances.numpy() for mixture in mixtures]))
        return prior

    @property
    def num_labels(self) -> int:
        """C, the number of classes."""
        return len(self.class_components)

    @property
    def labels(self) -> list[str]:
        """The labels as users read them, such as "3", or "3 cat" where the classes have names."""
        return [f"{label} {name}" for label, name in enumerate(self.class_names)] or [*map(str, range(self.num_labels))]

    def label_log_probs(self) -> tf.Tensor:
        """Computes log p(c), float32 `[C]`, in nats."""
        return tf.stack([tf.reduce_logsumexp(part) for part in tf.split(self.log_weights.value, self.class_components)])

    def log_prob_given_labels(self, u: tf.Tensor) -> tf.Tensor:
        """Computes log r(u|c) for every class.

        Args:
            u: float32 `[N, d, d, C]`.

        Returns:
            float32 `[N, C]`, nats.
        """
        parts = tf.split(self.component_log_probs(u), self.class_components, axis=1)
        return tf.stack([tf.reduce_logsumexp(part, axis=1) for part in parts], axis=1) - self.label_log_probs()

    def sample(
        self,
        noise: tf.Tensor,
        steps: int | None = None,
        temperature: float | tf.Tensor = 1.0,
        label: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws a component, of the given label where there is one, then u from its Gaussian.

        Args:
            noise: float32 `[N, sample_noise_size()]`, standard normal.
            steps: not used.
            temperature: the factor of the Gaussian's standard deviation.
            label: int32 scalar or `[N]`, from 0 to C - 1; None draws from r(u).

        Returns:
            float32 `[N, d, d, C]`.
        """
        if label is None:
            return super().sample(noise, steps, temperature)
        last = tf.gather(np.cumsum(self.class_components, dtype="int32"), label) - 1
        first = last - tf.gather(self.class_components, label) + 1
        numbers = tf.range(self.components)
        of_label = (numbers >= first[..., tf.newaxis]) & (numbers <= last[..., tf.newaxis])
        ends = tf.cumsum(tf.where(of_label, tf.exp(self.log_weights.value), 0.0), axis=-1)
        uniform = to_uniform(noise[:, :1]) * ends[..., -1:]
        below = tf.reduce_sum(tf.cast(ends <= uniform, tf.int32), axis=1)  # those of other labels before it, too
        return self.sample_components(tf.minimum(below, last), noise[:, 1:], temperature)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["components"]
        return config | {"class_components": self.class_components, "class_names": self.class_names}


def find_label(prior: Prior | None, label: int | str) -> int:
    """Finds a label by its number or by the name of its class. A name wins over a number.

    Args:
        prior: of a model, or None for the Ladder VAE.
        label: what the user asks for, such as 3, "3" or "cat".

    Returns:
        The number of the label.

    Raises:
        UserError: if the prior has no labels, or not this one; a `ValueError`, of one line.
    """
    if not isinstance(prior, LabelledMixturePrior):
        raise UserError(NO_LABELS)
    if label in prior.class_names:
        return prior.class_names.index(label)
    number = int(label) if isinstance(label, str) and label.isascii() and label.isdigit() else label
    if isinstance(number, (int, np.integer)) and 0 <= number < prior.num_labels:
        return int(number)
    known = list_some(prior.labels) if prior.class_names else f"0 to {prior.num_labels - 1}"
    raise UserError(f"This model has no label {label!r}{did_you_mean(str(label), prior.class_names)}: it has {known}.")
