"""Estimates of -log p(x) for a data set: importance weighting, the negative ELBO and the published estimator."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.distribute.devices import map_round_robin
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.evaluation.evaluator import Evaluator, check_at_least_one, checked_images
from dvpvae_tf.evaluation.results import Evaluation, mean_and_error
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.refit import kept_with_ancestral_process
from dvpvae_tf.noise import check_seed


def iwae(
    model: DVPVAE,
    images: np.ndarray,
    samples: int = 100,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    verbose: int = 1,
) -> Evaluation:
    """Bounds -log p(x) by importance weighting with K draws an image: -log(1/K sum w).

    The weights are w = p(x|z) p(z|u) r(u|y_0) r(y_0 ... y_1) / (q(z|x, u) r(u|x) q(y_0 ... y_1|u)), all at the same
    draw of z, u and the diffusion trajectory y. The draws of an image share its binary target. The expectation of the
    estimate is at least -log p(x) of the T-step process, falls with K, and at K = 1 is the negative ELBO.

    Args:
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        samples: K, the draws of each image.
        steps: T, the diffusion steps of the prior; None takes the prior's own.
        seed: random seed, below 2^31. Results depend on it and on the index of an image, not on the batch size.
        batch_size: images times draws that go through the model at a time. The memory grows with it, and with T.
        verbose: 1 for a progress bar with the estimate so far, 0 for no output.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if a number or a pixel is out of its range, there are no images or they are of another shape,
            `steps` is given for a model without a diffusion prior, or `adapt` has not been called.

    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """
    return estimate("iwae", model, images, samples, steps, seed, batch_size, verbose)


def elbo(
    model: DVPVAE,
    images: np.ndarray,
    samples: int = 1,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    verbose: int = 1,
) -> Evaluation:
    """Bounds -log p(x) by the negative ELBO (Eq. 15), with the prior term of T steps (Eq. 31).

    It takes the arguments of `iwae` and raises the same errors. `samples` is how many draws of each image the mean is
    taken over: more draws make the estimate more precise, and leave its expectation as it is.

    Returns:
        `Evaluation`, whose estimates are its `negative_elbo`.
    """
    return estimate("elbo", model, images, samples, steps, seed, batch_size, verbose)


def published(
    model: DVPVAE,
    images: np.ndarray,
    samples: int = 100,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    verbose: int = 1,
) -> Evaluation:
    """Estimates -log p(x) as the released test code does. This is not a bound: compare it with Table 1 alone.

    It takes the arguments of `iwae` and raises the same errors. Inside the exponential it has the KL of each layer in
    closed form in place of the log-ratio. With a diffusion prior, its estimate of log r(u) is too high, and its process
    is the ancestral one, whether the model is calibrated or not.

    Returns:
        `Evaluation`, whose `is_bound` is False.
    """
    return estimate("published", kept_with_ancestral_process(model), images, samples, steps, seed, batch_size, verbose)


def estimate(
    estimator: str,
    model: DVPVAE,
    images: np.ndarray,
    samples: int,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    verbose: int = 1,
    first: int = 0,
    copies: Sequence[DVPVAE] = (),
) -> Evaluation:
    """Runs one of the estimators, also on a part of a data set or on several devices.

    "published" is that of the released code only where the model takes the ancestral process.

    Args:
        estimator: "iwae", "elbo" or "published".
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        samples: K, the draws of each image.
        steps: T, the diffusion steps of the prior; None takes the prior's own.
        seed: random seed, below 2^31.
        batch_size: images times draws that go through the model at a time.
        verbose: 1 for a progress bar with the estimate so far, 0 for no output.
        first: index of the first of the images in the whole data set, see `results.concatenate`.
        copies: copies of the model on other devices, which take batches in turn with it, see
            `dvpvae_tf.distribute.devices.copies_on_other_devices`.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: as `iwae` does.
    """
    start = time.perf_counter()
    check_at_least_one(samples=samples, batch_size=batch_size)
    check_seed(seed)
    samples, steps, seed = int(samples), model.check_steps(steps), int(seed)
    images = checked_images(model, images)
    settings: dict[str, Any] = {"steps": steps, "published": estimator == "published"}
    evaluators = _traced_evaluators((model, *copies), settings, verbose)
    size = smaller_batch(len(images), batch_size, len(evaluators))
    progress = _Progress(len(images) * samples, start, verbose)

    def batch_estimator(evaluator):
        def of_batch(place):
            data, means = evaluator.image_data(images[place : place + size], seed, first + place), _Means()
            rows = len(data.target)
            for draws in chunks(samples, max(1, batch_size // rows)):
                means.add(len(draws), *evaluator.draw_sums(data, seed, first + place, draws, samples, **settings))
                progress.add(place, means.estimates(estimator), rows * len(draws))
            return means.terms() | {"estimates": means.estimates(estimator)}

        return of_batch

    batches = map_round_robin([batch_estimator(each) for each in evaluators], range(0, len(images), size))
    values = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    return Evaluation(
        estimator=_describe(estimator, samples, steps, model.process_name),
        is_bound=estimator != "published",
        **{"continuous_time_negative_elbo": None} | values,
        samples=samples,
        steps=steps,
        process=model.process_name,
        seed=seed,
        seconds=progress.seconds,
        image_samples_per_second=progress.rate,
        bits_per_nat=model.bits_per_nat,
    )


def negative_elbo(model: DVPVAE, images: np.ndarray, batch_size: int = 100, verbose: int = 1) -> dict:
    """Reports the mean negative ELBO (Eq. 15) of a data set, of the process that `sample` runs, from one draw an image.

    `model.evaluate` gives that in continuous time instead, which training minimises.

    Args:
        model: an adapted `DVPVAE`; its own seed is used.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        batch_size: images that go through the model at a time.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        dict of `MeanAndError`: "nats" and "bits_per_dim" of the negative ELBO, and its terms "reconstruction", "kl_z"
        and "kl_u" in nats. Beside them "images", their number, and "process" and "steps" as in `Evaluation`.

    Raises:
        ValueError: as `iwae` does.
    """
    check_at_least_one(batch_size=batch_size)
    images = checked_images(model, images)
    evaluator, bar = Evaluator(model), keras.utils.Progbar(len(images), verbose=verbose, unit_name="image")
    terms = []
    for start in range(0, len(images), batch_size):
        terms.append(evaluator.negative_elbo(images[start : start + batch_size], model.seed, start))
        bar.add(len(terms[-1]["kl_u"]))
    values = {name: np.concatenate([part[name] for part in terms]).astype("float64") for name in terms[0]}
    return {
        "nats": mean_and_error(values["negative_elbo"]),
        "bits_per_dim": mean_and_error(values["negative_elbo"], model.bits_per_nat),
        **{name: mean_and_error(values[name]) for name in ("reconstruction", "kl_z", "kl_u")},
        "images": len(images),
        "process": model.process_name,
        "steps": model.check_steps(None),
    }


def _traced_evaluators(models, settings, verbose):
    evaluators = [Evaluator(model) for model in models]
    if verbose and not all(evaluator.is_traced(**settings) for evaluator in evaluators):
        print("Tracing the model, once: up to some minutes for a large one", flush=True)
    for evaluator in evaluators:
        evaluator.trace(**settings)
    return evaluators


def _describe(estimator, samples, steps, process):
    """An estimator in words for tables and files, such as "iwae, K = 100, T = 50, ancestral"."""
    of_prior = "" if steps is None else f", T = {steps}"
    if estimator == "published":
        return f"{estimator}, K = {samples}{of_prior} (not a bound)"  # ancestral always
    return f"{estimator}, K = {samples}{of_prior}" + (f", {process}" if process else "")


def chunks(total: int, size: int) -> list[range]:
    """Returns the numbers 0 ... total - 1 in ranges of the given size; the last may be shorter."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


class _Means:
    """Means over the draws of some images, kept in float64 as the draws come."""

    def __init__(self) -> None:
        self.count, self.log_sum = 0, np.array(-np.inf)
        self.sums: Any = None

    def add(self, count, sums, log_sum):
        """Adds what `Evaluator.draw_sums` gives for `count` draws."""
        sums = tf.nest.map_structure(lambda value: np.asarray(value, "float64"), sums)
        self.sums = sums if self.sums is None else tf.nest.map_structure(np.add, self.sums, sums)
        self.log_sum = np.logaddexp(self.log_sum, np.asarray(log_sum, "float64"))
        self.count += count

    def terms(self):
        """The means of the terms."""
        return tf.nest.map_structure(lambda value: value / self.count, self.sums)

    def estimates(self, estimator):
        """The negative ELBO, or minus the log of the mean weight, `[N]`."""
        return self.sums["negative_elbo"] / self.count if estimator == "elbo" else np.log(self.count) - self.log_sum


class _Progress:
    """A progress bar with the estimate so far, and the rate of the work; several threads add to it."""

    def __init__(self, total: int, start: float, verbose: int):
        self.start, self.lock = start, threading.Lock()
        self.estimates: dict[int, np.ndarray] = {}
        self.work, self.seconds = 0, 0.0
        self.first = (0, 0.0)  # after the first pass
        self.bar = keras.utils.Progbar(total, verbose=verbose, unit_name="sample", stateful_metrics=["nats"])

    def add(self, batch, estimates, work):
        """Adds finished work; `estimates` are those so far of the images of a batch."""
        with self.lock:
            self.work += work
            self.seconds = time.perf_counter() - self.start
            if not self.first[0]:
                self.first = (self.work, self.seconds)
            self.estimates[batch] = estimates
            self.bar.add(work, [("nats", np.concatenate(list(self.estimates.values())).mean())])

    @property
    def rate(self):
        """Work a second, float; without the first pass, which warms up, where there is another."""
        work, seconds = self.first if self.work > self.first[0] else (0, 0.0)
        return (self.work - work) / (self.seconds - seconds)
