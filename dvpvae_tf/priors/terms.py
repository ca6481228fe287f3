"""Terms of the bound on log r(u), and estimates of it."""

from typing import NamedTuple

import tensorflow as tf


class DiffusionTerms(NamedTuple):
    """The three terms of -L_vlb(u) (Eq. 31), each float32 `[N]`, in nats."""

    diffusion: tf.Tensor
    reconstruction: tf.Tensor
    prior_kl: tf.Tensor


class ExactTerms(NamedTuple):
    """-log r(u) of a prior with a density, float32 `[N]`, in nats."""

    cross_entropy: tf.Tensor


Terms = DiffusionTerms | ExactTerms


class PriorEstimate(NamedTuple):
    """Two estimates of log r(u) from one trajectory of the T-step process: its bound by terms, and a log-weight.

    Attributes:
        terms: the `DiffusionTerms` of T steps, their KLs in closed form given the trajectory; or `ExactTerms`.
        log_weight: float32 `[N]` in nats, log r(y_1) + sum log r(y_s|y_t) + log r(u|y_0) - log q(y_0 ... y_1|u) at the
            trajectory itself; or log r(u).
    """

    terms: Terms
    log_weight: tf.Tensor
