"""Measures what a network adds to a full mixture over u: `python benchmarks/prior_networks.py --help`.

The denoiser starts as the mixture's E[u|y_t], and a residual MLP over the elements of u, zero at the start, corrects
it. Its v is that of Salimans and Ho, "Progressive distillation", ICLR 2022. With 0 components there is no mixture.

Two reverse processes run with it: the calibrated one, and one whose steps are mixtures of each component's own reverse
step. Without a network the second one is the mixture itself at every T. The correction moves all its means.

Where the model has a calibrated diffusion prior, that is measured at the same draws.
"""

import argparse
import math
import time

import keras
import numpy as np
import tensorflow as tf
from kl_of_u import kl_of_u

from dvpvae_tf import load_model
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.models.refit import draw_pseudoinputs
from dvpvae_tf.priors import DiffusionPrior, calibration, fit_full_mixture
from dvpvae_tf.priors.covariances import FullCovariances
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule
from dvpvae_tf.priors.process import GRID_TIMES, CalibratedProcess

CALIBRATED_STEPS, MIXTURE_STEPS = (1, 2, 5, 10, 20, 50), (1, 5, 20)
NOISE_SEED = 5  # of the trajectories
LEARNING_RATE, WARM_UP_STEPS, BATCH_SIZE = 2e-3, 100, 500
SCHEDULE = LinearNoiseSchedule(-6.0, 7.0)


class ResidualMLP(keras.Model):
    """Maps y_t `[N, P]` and times `[N]` to `[N, P]`; zero at the start."""

    def __init__(self, size, width, blocks=4):
        super().__init__()
        dense = keras.layers.Dense
        self.enter, self.embed = dense(width), dense(width, activation="silu")
        self.norms = [keras.layers.LayerNormalization() for _ in range(blocks + 1)]
        self.hidden = [dense(width) for _ in range(blocks)]
        self.modulation = [dense(2 * width) for _ in range(blocks)]
        self.back = [dense(width, kernel_initializer="zeros") for _ in range(blocks)]
        self.leave = dense(size, kernel_initializer="zeros")

    def call(self, y, time):
        angles = time[:, None] * math.pi * 2.0 ** np.arange(-1, 6, dtype="float32")
        embedded = self.embed(tf.concat([tf.cos(angles), tf.sin(angles), time[:, None]], axis=1))
        x = self.enter(y)
        for norm, hidden, modulation, back in zip(
            self.norms[:-1], self.hidden, self.modulation, self.back, strict=True
        ):
            scale, shift = tf.split(modulation(embedded), 2, axis=1)
            x += back(tf.nn.silu(hidden(norm(x)) * (1.0 + scale) + shift))
        return self.leave(tf.nn.silu(self.norms[-1](x)))


class MixturePosterior:
    """q(u|y_t) of a `FullMixturePrior`: a mixture, each Gaussian diagonal in the eigenvectors of its covariance."""

    def __init__(self, mixture):
        matrices = FullCovariances.unpack(mixture.covariances.value)
        variances, vectors = tf.linalg.eigh(matrices)
        self.log_weights = mixture.log_weights.value
        self.variances, self.vectors = tf.cast(variances, tf.float32), tf.cast(vectors, tf.float32)
        self.means = tf.einsum("kp,kpq->kq", mixture.means.value, self.vectors)

    def rotate(self, values):
        """`[N, P]` in the eigenvectors of each component, `[N, K, P]`."""
        return tf.einsum("np,kpq->nkq", values, self.vectors)

    def __call__(self, y, time):
        """The log-weights `[N, K]`, the rotated means `[N, K, P]` and the variances `[N, K, P]`."""
        alpha, sigma = (f(time)[:, None, None] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        total = alpha**2 * self.variances + sigma**2
        distance = self.rotate(y) - alpha * self.means
        logits = self.log_weights - 0.5 * tf.reduce_sum(tf.square(distance) / total + tf.math.log(total), axis=2)
        means = self.means + alpha * self.variances / total * distance
        return tf.nn.log_softmax(logits), means, self.variances * sigma**2 / total

    def mean(self, y, time):
        """E[u|y_t], `[N, P]`."""
        log_weights, means, _ = self(y, time)
        return tf.einsum("nk,nkq,kpq->np", tf.exp(log_weights), means, self.vectors)


class Denoiser:
    """u_hat(y_t, t): the mixture's mean, or alpha y without one, minus sigma times the network's output."""

    def __init__(self, network, posterior):
        self.network, self.posterior = network, posterior

    def correction(self, y, time):
        return -SCHEDULE.sigma(time)[:, None] * self.network(y, time)

    def __call__(self, y, time):
        if self.posterior is None:
            return SCHEDULE.alpha(time)[:, None] * y + self.correction(y, time)
        return self.posterior.mean(y, time) + self.correction(y, time)

    def predict_u(self, y, time):
        """As `ReverseProcess` takes it."""
        flat = tf.reshape(y, [-1, math.prod(y.shape[1:])])
        return tf.reshape(self(flat, tf.broadcast_to(time, tf.shape(flat)[:1])), tf.shape(y))

    def loss(self, u, time, noise):
        """The continuous-time integrand of the diffusion term, `[N]`, nats."""
        error = tf.reduce_sum(tf.square(u - self(SCHEDULE.diffuse(u, time[:, None], noise), time)), axis=1)
        return 0.5 * SCHEDULE.slope * tf.exp(-SCHEDULE.gamma(time)) * error


def train(denoiser, u, validation_u, steps, seed):
    """Trains the network, at times that are spread evenly over each batch; prints the change of the loss."""
    rng, variables = np.random.default_rng(seed), denoiser.network.trainable_variables
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - WARM_UP_STEPS), warmup_target=LEARNING_RATE, warmup_steps=WARM_UP_STEPS
    )
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=50.0, use_ema=True, ema_momentum=0.995)
    optimizer.build(variables)

    @tf.function
    def step(u, start, noise):
        with tf.GradientTape() as tape:
            time = (start + tf.range(BATCH_SIZE, dtype=tf.float32) / BATCH_SIZE) % 1.0
            loss = tf.reduce_mean(denoiser.loss(u, time, noise))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    before = validation_loss(denoiser, validation_u)
    for _ in range(steps):
        rows = u[rng.integers(0, len(u), BATCH_SIZE)]
        step(rows, np.float32(rng.uniform()), rng.normal(size=rows.shape).astype("float32"))
    optimizer.finalize_variable_values(variables)
    after = validation_loss(denoiser, validation_u)
    print(f"diffusion loss on validation images {mean_and_error(after)}, change {mean_and_error(after - before)} nats")


def validation_loss(denoiser, u, repeats=8):
    """The diffusion term in continuous time of each row, from the same noise whenever it is called."""
    rng, losses, loss = np.random.default_rng(1), [], tf.function(denoiser.loss)
    for _ in range(repeats):
        time = rng.permutation((np.arange(len(u)) + rng.uniform()) / len(u)).astype("float32")
        losses.append(loss(u, time, rng.normal(size=u.shape).astype("float32")))
    return np.mean(losses, axis=0)


def estimate_with_mixture_steps(posterior, correction, path, u, noise):
    """The log-weight of a trajectory whose steps are mixtures of the components' own reverse steps, `[N]`."""
    snr, times = np.exp(-SCHEDULE.gamma(GRID_TIMES[path])), GRID_TIMES[path].astype("float32")
    one = tf.ones([1])
    y = SCHEDULE.diffuse(u, one, noise[:, 0])
    first = 0.5 * (tf.square(noise[:, 0]) - tf.square(y)) + tf.math.log(SCHEDULE.sigma(one))
    weight = tf.reduce_sum(first, axis=1)
    for i, value in enumerate(times):
        time = tf.fill(tf.shape(u)[:1], value)
        log_weights, means, variances = posterior(y, time)
        distance = posterior.rotate(u - correction(y, time)) - means
        if i + 1 == len(times):
            log_densities = -0.5 * (tf.square(distance) / variances + tf.math.log(2.0 * math.pi * variances))
            return weight + tf.reduce_logsumexp(log_weights + tf.reduce_sum(log_densities, axis=2), axis=1)
        gain, fresh = float(snr[i + 1] - snr[i]), noise[:, i + 1]
        total = 1.0 + gain * variances
        whitened = tf.square(posterior.rotate(fresh) + gain**0.5 * distance) / total
        log_densities = -0.5 * tf.reduce_sum(whitened + tf.math.log(total), axis=2)
        weight += tf.reduce_logsumexp(log_weights + log_densities, axis=1) + 0.5 * tf.reduce_sum(fresh**2, axis=1)
        mean, deviation = SCHEDULE.posterior(y, u, time[:, None], tf.fill([1, 1], times[i + 1]))
        y = mean + deviation * fresh


def mean_and_error(values):
    return f"{values.mean():.3f} +- {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def measure(arguments):
    model = load_model(arguments.model)
    splits, entropy = read_images(arguments.dataset, arguments.data_dir), float(model.pseudoinput.entropy())
    sizes = (max(len(splits[0]), 16_000), 2000, 4000)
    parts = zip(splits, sizes, strict=True)
    u, validation_u, test_u = (draw_pseudoinputs(model, *part, seed) for seed, part in enumerate(parts))
    shape, size = u.shape[1:], math.prod(u.shape[1:])
    flat, flat_validation, flat_test = (np.reshape(part, [-1, size]) for part in (u, validation_u, test_u))
    posterior = None
    if arguments.components:
        mixture = fit_full_mixture(u, validation_u, (arguments.components,), arguments.seed)
        posterior = MixturePosterior(mixture)
        exact = -mixture.log_prob(test_u).numpy() - entropy
        print(f"mixture of {arguments.components}, exact: {mean_and_error(exact)} nats on test images")
    keras.utils.set_random_seed(arguments.seed)
    denoiser, start = Denoiser(ResidualMLP(size, arguments.width), posterior), time.perf_counter()
    denoiser(flat[:1], tf.zeros(1))
    train(denoiser, flat, flat_validation, arguments.steps, arguments.seed)
    print(f"{denoiser.network.count_params():,} parameters, trained in {time.perf_counter() - start:.0f} s")

    found = calibration.calibrate(SCHEDULE, denoiser.predict_u, u[:: len(u) // 4000], validation_u, seed=arguments.seed)
    tables = {"covariances": found.covariances, "paths": found.paths}
    for steps in CALIBRATED_STEPS:
        process = CalibratedProcess(SCHEDULE, denoiser.predict_u, shape, steps, **tables)
        print(f"calibrated, T = {steps}: {mean_and_error(kl_of_process(process, test_u, entropy))} nats")
        if isinstance(model.prior, DiffusionPrior) and model.prior.calibrated_steps:
            own = kl_of_process(model.prior.process(steps), test_u, entropy)
            print(f"the model's own prior, T = {steps}: {mean_and_error(own)} nats")
    for steps in MIXTURE_STEPS if posterior else ():
        path = found.paths[steps - 1, : steps + 1]
        kl = kl_of_u(mixture_estimate_of(denoiser, path), flat_test, (steps + 1) * size, entropy, NOISE_SEED)
        print(f"mixture steps, T = {steps}: {mean_and_error(kl)} nats, {mean_and_error(kl - exact)} more than exact")


def kl_of_process(process, u, entropy):
    """The KL of u of a process, from one trajectory for each draw of u, `[N]`."""

    def log_weight(u, noise):
        return process.estimate(u, noise).log_weight

    return kl_of_u(log_weight, u, process.estimate_noise_size, entropy, NOISE_SEED)


def mixture_estimate_of(denoiser, path):
    """`estimate_with_mixture_steps` as a function of u and flat noise."""

    def log_weight(u, noise):
        noise = tf.reshape(noise, [-1, len(path), u.shape[1]])
        return estimate_with_mixture_steps(denoiser.posterior, denoiser.correction, path, u, noise)

    return log_weight


def main():
    parser = argparse.ArgumentParser(description="Measure what a network adds to a full mixture over u.")
    parser.add_argument("--model", required=True, help="trained model; its r(u|x) is used")
    parser.add_argument("--dataset", required=True, help="as in training")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--components", type=int, default=40, help="of the mixture; 0: none (default: %(default)s)")
    parser.add_argument("--width", type=int, default=256, help="of the network (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    with exit_on_error():
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
