"""Scores one VAE with several priors over u at the same draws: `python benchmarks/prior_bounds.py --help`.

The encoder and decoder run once for a draw. Each prior then scores the same u, so that differences are those of the
priors. Mixtures are fitted to training images; validation images choose their regularisation.
"""

import argparse

import numpy as np
import tensorflow as tf
from keras.utils import Progbar

from dvpvae_tf import load_model, noise
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.evaluation.results import mean_and_error, plus_minus
from dvpvae_tf.models.draws import draw, image_data, importance_log_weight, tile
from dvpvae_tf.models.refit import draws_to_fit, with_prior
from dvpvae_tf.noise import Stream
from dvpvae_tf.priors import StandardPrior, fit_full_mixture
from dvpvae_tf.priors.diffusion import PAPER_STEPS

IMAGES_AT_A_TIME = 50


def priors_of(model, diffusion, splits, arguments):
    """The priors by name, each with its T."""
    ancestral = diffusion.ancestral()
    found = {f"ancestral, T = {PAPER_STEPS}": (ancestral, PAPER_STEPS)}
    found |= {f"calibrated, T = {steps}": (diffusion, steps) for steps in arguments.steps}
    u, validation_u = draws_to_fit(model, *splits[:2], arguments.seed)
    for number in arguments.components:
        mixture = fit_full_mixture(u, validation_u, (number,), seed=arguments.seed)
        found[f"full mixture of {number}"] = (mixture, None)
    return found


def scorer_of(model, priors):
    """The compiled function that draws u and z for images and scores them with each prior."""

    @tf.function(reduce_retracing=True)
    def score(images, target_seeds, seeds, counter):
        data = tile(image_data(model, images, target_seeds), tf.shape(seeds)[0] // tf.shape(images)[0])
        drawn = draw(model, data, seeds, model.check_steps(None))
        weight = importance_log_weight(drawn) - drawn.prior_estimate.log_weight
        elbo = drawn.log_likelihood - tf.add_n(drawn.inference.kl) + model.pseudoinput.entropy()
        weights, bounds = [], []
        for number, (prior, steps) in enumerate(priors.values()):
            shape = [tf.shape(seeds)[0], prior.estimate_noise_size(steps)]
            estimate = prior.estimate(
                drawn.inference.pseudoinput, tf.random.stateless_normal(shape, [number, counter]), steps
            )
            weights.append(weight + estimate.log_weight)
            bounds.append(elbo - tf.add_n(estimate.terms))
        return tf.stack(weights), tf.stack(bounds)

    return score


def measure(model, priors, images, samples, seed):
    """`iwae` and the negative ELBO of each prior for each image, `[priors, N]` each."""
    score, parts = scorer_of(with_prior(model, StandardPrior(name="prior")), priors), []  # it costs nothing
    bar = Progbar(len(images) * samples, unit_name="draw")
    for first in range(0, len(images), IMAGES_AT_A_TIME):
        batch = model.prepare(tf.constant(images[first : first + IMAGES_AT_A_TIME]))
        target_seeds = noise.row_seeds(seed, Stream.EVALUATION, first, len(batch))
        log_sums, elbos = [], 0.0
        for k in range(samples):
            seeds = noise.row_seeds(seed, Stream.FIRST_DRAW - k, first, len(batch))
            weights, bounds = score(batch, target_seeds, seeds, tf.constant(first * samples + k))
            log_sums.append(weights.numpy().astype("float64"))
            elbos = elbos + bounds.numpy().astype("float64")
            bar.add(len(batch))
        parts.append((np.log(samples) - np.logaddexp.reduce(log_sums), -elbos / samples))
    return [np.concatenate(each, axis=1) for each in zip(*parts, strict=True)]


def table(names, bounds, elbos):
    """Lines of Markdown: means, and differences from the first prior on the same images."""
    yield "| prior | iwae | gain | negative ELBO | gain |\n|---|---|---|---|---|"
    for name, bound, elbo in zip(names, bounds, elbos, strict=True):
        cells = [bound, bounds[0] - bound, elbo, elbos[0] - elbo]
        yield f"| {name} | " + " | ".join(plus_minus(mean_and_error(cell)) for cell in cells) + " |"


def main():
    parser = argparse.ArgumentParser(description="Score one VAE with several priors over u at the same draws.")
    parser.add_argument("--model", required=True, help="model with a calibrated diffusion prior")
    parser.add_argument("--dataset", required=True, help="as in training; its test images are scored")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 10, 20], help="T (default: 5 10 20)")
    parser.add_argument("--components", type=int, nargs="*", default=[10, 40, 100], help="(default: 10 40 100)")
    parser.add_argument("--limit", type=int, default=200, help="test images (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="K, draws of an image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws and of EM (default: %(default)s)")
    arguments = parser.parse_args()
    with exit_on_error():
        model, splits = load_model(arguments.model), read_images(arguments.dataset, arguments.data_dir)
    priors = priors_of(model, model.prior, splits, arguments)
    results = measure(model, priors, splits[2][: arguments.limit], arguments.samples, arguments.seed)
    print(*table(priors, *results), sep="\n")
    print(f"{arguments.limit} test images, K = {arguments.samples}, seed {arguments.seed}; nats, with standard errors")


if __name__ == "__main__":
    main()
