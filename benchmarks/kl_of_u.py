"""The KL of u of one model, from one trajectory for each draw of u; for the benchmarks of priors."""

import numpy as np
import tensorflow as tf

ROWS_AT_A_TIME = 250


def kl_of_u(estimate, u, noise_size, entropy, seed):
    """Estimates the KL of u of each draw of r(u|x), float32 `[N]`, in nats.

    `estimate` gives an estimate of log r(u), `[N]`, from u and standard normal noise `[N, noise_size]`; `entropy` is
    that of r(u|x).
    """
    function, rng, values = tf.function(estimate), np.random.default_rng(seed), []
    for start in range(0, len(u), ROWS_AT_A_TIME):
        rows = u[start : start + ROWS_AT_A_TIME]
        values.append(-function(rows, rng.normal(size=(len(rows), noise_size)).astype("float32")))
    return np.concatenate(values) - entropy
