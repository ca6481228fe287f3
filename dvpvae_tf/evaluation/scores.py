"""Scores of single images: bits per dimension with an error, how typical an image is, and its most probable label."""

from typing import NamedTuple

import keras
import numpy as np

from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.bounds import chunks
from dvpvae_tf.evaluation.evaluator import Evaluator, check_at_least_one, checked_images
from dvpvae_tf.evaluation.results import MeanAndError, mean_and_error, plus_minus
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.noise import check_seed
from dvpvae_tf.priors.labelled_mixture import NO_LABELS, LabelledMixturePrior


class Scores(NamedTuple):
    """Scores of N images, float64.

    Attributes:
        nats: `[N]`, the importance-weighted bound on -log p(x) from K draws.
        errors: `[N]`, the standard error of each over its K draws, to first order; NaN where K is 1.
        terms: `[N, 3]`, of the negative ELBO in nats, means over the draws: reconstruction, KL of z, and KL of u (0 for
            the Ladder VAE).
        label_nats: `[N, C]`, the bounds on -log p(x|c); None for a model without labels.
    """

    nats: np.ndarray
    errors: np.ndarray
    terms: np.ndarray
    label_nats: np.ndarray | None


def score(
    model: DVPVAE,
    images: np.ndarray,
    samples: int = 10,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 500,
    verbose: int = 1,
) -> Scores:
    """Scores images one by one.

    Args:
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        samples: K, the draws of each image.
        steps: T of a diffusion prior; None takes its own.
        seed: random seed. A score depends on it and on the index of the image, not on the batch size.
        batch_size: images times draws that go through the model at a time.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        `Scores`.

    Raises:
        ValueError: if a number is out of its range, the images are of another shape, type or range, or `adapt` has not
            been called.
    """
    check_at_least_one(samples=samples, batch_size=batch_size)
    check_seed(seed)
    images, steps = checked_images(model, images), model.check_steps(steps)
    evaluator, bar = Evaluator(model), keras.utils.Progbar(len(images), verbose=verbose, unit_name="image")
    parts, size = [], max(1, batch_size // samples)
    for start in range(0, len(images), size):
        data = evaluator.image_data(images[start : start + size], seed, start)
        drawn = [evaluator.draw_terms(data, seed, start, draws, steps) for draws in chunks(samples, batch_size)]
        together = {name: np.concatenate([each[name] for each in drawn]).astype("float64") for name in drawn[0]}
        parts.append(_of_batch(together))
        bar.add(len(parts[-1].nats))
    nats, errors, terms = (np.concatenate(part) for part in list(zip(*parts, strict=True))[:3])
    of_labels = [part.label_nats for part in parts if part.label_nats is not None]
    return Scores(nats, errors, terms, np.concatenate(of_labels) if of_labels else None)


def _of_batch(drawn: dict[str, np.ndarray]) -> Scores:
    log_weight = drawn["log_weight"]
    samples = len(log_weight)
    # The weights, with the sum 1: their deviation is that of the logarithm of their mean.
    shares = np.exp(log_weight - _log_sum(log_weight, axis=0))
    errors = shares.std(axis=0, ddof=1) * np.sqrt(samples) if samples > 1 else np.full(log_weight.shape[1], np.nan)
    by_draw = drawn["reconstruction"], drawn["kl_z"].sum(axis=2), drawn["kl_u"]
    terms = np.stack([term.mean(axis=0) for term in by_draw], axis=1)
    of_labels = drawn.get("label_log_weight")
    return Scores(_bound(log_weight), errors, terms, None if of_labels is None else _bound(of_labels))


def _bound(log_weight: np.ndarray) -> np.ndarray:
    return np.log(len(log_weight)) - _log_sum(log_weight, axis=0)[0]


def _log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    """The logarithm of the sum of exp(values), with `axis` kept."""
    return np.logaddexp.reduce(values, axis=axis, keepdims=True)


def label_log_probs(model: DVPVAE, scores: Scores) -> np.ndarray:
    """Computes log p(c|x) by Bayes' rule: the model as a classifier.

    Args:
        model: the model of the scores, its prior a `LabelledMixturePrior`.
        scores: of N images.

    Returns:
        float64 `[N, C]`, nats; `argmax(axis=1)` gives the most probable labels.

    Raises:
        UserError: if the model has no labels.
    """
    if not isinstance(model.prior, LabelledMixturePrior):
        raise UserError(NO_LABELS)
    log_joint = np.asarray(model.prior.label_log_probs()) - scores.label_nats
    return log_joint - _log_sum(log_joint, axis=1)


class LabelResults(NamedTuple):
    """How well a model with labels classifies images.

    Attributes:
        nats: the bound on -log p(x|c) of each image and its own label, as a mean.
        accuracy: the fraction of images whose most probable label is their own.
        images: their number.
        samples: K, the draws of each.
        seed: of the draws.
    """

    nats: MeanAndError
    accuracy: MeanAndError
    images: int
    samples: int
    seed: int

    def __str__(self) -> str:
        return (
            f"Bound on -log p(x | label): {plus_minus(self.nats)} nats; by Bayes' rule the model labels "
            f"{plus_minus(self.accuracy, 1, 100.0)} % of the images correctly ({self.images} test images, "
            f"K = {self.samples}, seed {self.seed})"
        )


def score_labels(
    model: DVPVAE,
    images: np.ndarray,
    labels: np.ndarray,
    samples: int = 10,
    limit: int = 500,
    seed: int = 0,
    verbose: int = 1,
) -> LabelResults:
    """Measures a model with labels: its bound on -log p(x|c), and its accuracy as a classifier by Bayes' rule.

    Args:
        model: its prior is a `LabelledMixturePrior`.
        images: test images `[N, D, D, C]`: uint8, or float in [0, 1].
        labels: int `[N]`.
        samples: K, the draws of each image.
        limit: the most images to take; they are chosen at random.
        seed: random seed of the noise and of the choice.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        `LabelResults`.

    Raises:
        UserError: if the model has no labels, or not all of these.
    """
    if not isinstance(model.prior, LabelledMixturePrior):
        raise UserError(NO_LABELS)
    if labels.min() < 0 or labels.max() >= model.prior.num_labels:
        raise UserError(f"The model has the labels 0 to {model.prior.num_labels - 1}, but the images have others.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:limit])
    labels, scores = labels[chosen], score(model, images[chosen], samples, seed=seed, verbose=verbose)
    assert scores.label_nats is not None  # as the model has labels
    right = label_log_probs(model, scores).argmax(axis=1) == labels
    nats = scores.label_nats[np.arange(len(labels)), labels]
    return LabelResults(mean_and_error(nats), mean_and_error(right.astype("float64")), len(labels), samples, seed)


def typicality(terms: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Measures how far the terms of each image's bound are from the terms of reference images.

    A probable image need not be a typical one: a blank image has a higher p(x) than any digit.

    Args:
        terms: `[N, M]`, see `Scores`.
        reference: `[R, M]`, of images that are typical, such as validation images; R is well above M.

    Returns:
        float64 `[N]`: the Mahalanobis distance divided by the square root of the number of terms that vary. It is about
        1 for typical images.

    Raises:
        ValueError: if there are fewer than two reference images.
    """
    if len(reference) < 2:
        raise ValueError(f"Typicality needs reference images, got {len(reference)}.")
    covariance = np.cov(reference.T)
    centred, precision = terms - reference.mean(axis=0), np.linalg.pinv(covariance, hermitian=True)
    varying = np.linalg.matrix_rank(covariance, hermitian=True)  # of a Ladder VAE the KL of u does not
    return np.sqrt(np.einsum("ni,ij,nj->n", centred, precision, centred) / max(varying, 1))
