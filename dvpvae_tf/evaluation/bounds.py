"""What a model is worth: its bounds on a data set, and how it uses its latents."""

import dataclasses
import math
import threading
import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.distribute.devices import device_of, map_round_robin
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.layers.pixels import check_images
from dvpvae_tf.models import Features, Inference
from dvpvae_tf.noise import Purpose, Stream
from dvpvae_tf.priors.exact import NO_STEPS
from dvpvae_tf.priors.terms import TrajectoryScore


class Bound(NamedTuple):
    """The negative ELBO of a data set, its prior term in continuous time, from one draw of all noise an image.

    Means over the images in nats, except `bits_per_dim`; `standard_error` is that of `negative_elbo` over the images.
    """

    negative_elbo: float
    standard_error: float
    bits_per_dim: float
    bits_per_dim_standard_error: float
    reconstruction: float
    kl_z: float
    kl_u: float
    num_images: int


def negative_elbo(model, dataset, verbose=1):
    """Evaluates the negative ELBO of every image of a data set (Eq. 15), as `model.evaluate` does.

    Args:
        model: `DVPVAE`.
        dataset: `tf.data.Dataset` of batches of images, in a fixed order.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        `Bound`.
    """
    call = tf.function(lambda images, seeds: model(images, seeds=seeds), reduce_retracing=True)
    batches = int(dataset.cardinality())
    progress = keras.utils.Progbar(batches if batches > 0 else None, verbose=verbose, unit_name="batch")
    terms, seen = [], 0
    for images in dataset:
        seeds = noise.row_seeds(model.seed, Stream.EVALUATION, seen, len(images))
        elbo = call(images, seeds)
        terms.append([elbo.negative_elbo, elbo.reconstruction, tf.reduce_sum(elbo.kl_z, axis=1), elbo.kl_u])
        seen += len(images)
        progress.add(1)
    total, reconstruction, kl_z, kl_u = np.concatenate(terms, axis=1)
    mean, error = _mean_and_error(total)
    bits = model.bits_per_nat
    others = [float(values.mean()) for values in (reconstruction, kl_z, kl_u)]
    return Bound(mean, error, mean * bits, error * bits, *others, num_images=seen)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An estimate of -log p(x) of each image and what it is made of.

    Arrays are float64 with one row an image, in nats, the terms averaged over the samples of the image.

    Attributes:
        estimator: str, what `estimates` are, with the number of samples and of diffusion steps.
        is_bound: bool, whether their expectation is at least -log p(x).
        estimates: `[N]`.
        negative_elbo: `[N]`, with the prior term of T steps.
        continuous_time_negative_elbo: `[N]`, with the prior term in continuous time; None without a diffusion prior.
        reconstruction: `[N]`, -log p(x|z).
        kl_z: `[N, L]`, top layer first, in closed form given the layers above.
        kl_u: dict of `[N]`, the terms of the KL of u: "diffusion" (T steps), "reconstruction" and "prior_kl" of Eq. 31,
            or "cross_entropy" of another prior, and "negative_entropy" of r(u|x); empty for the Ladder VAE.
        samples: int, K.
        steps: int or None, T.
        seed: int.
        seconds: float, with the tracing of the graph.
        image_samples_per_second: float, after the first pass.
        bits_per_nat: float, from nats an image to bits per dimension.
    """

    estimator: str
    is_bound: bool
    estimates: np.ndarray
    negative_elbo: np.ndarray
    continuous_time_negative_elbo: np.ndarray | None
    reconstruction: np.ndarray
    kl_z: np.ndarray
    kl_u: dict
    samples: int
    steps: int | None
    seed: int
    seconds: float
    image_samples_per_second: float
    bits_per_nat: float

    def summary(self):
        """Gives the means over the images, with their standard errors, as plain numbers.

        Returns:
            dict that JSON can hold. In nats, each a dict of "mean" and "standard_error": "nats" (the estimate),
            "negative_elbo", "continuous_time_negative_elbo", "reconstruction", "kl_z", "kl_u", and dicts of such:
            "kl_z_per_layer" (from "z_L" to "z_1") and "kl_u_terms"; the same in bits: "bits_per_dim". What the model
            does not have is left out. Beside them "estimator", "is_bound", "images" and the settings and times.
        """
        numbers = {name: getattr(self, name) for name in ("estimator", "is_bound")}
        numbers["nats"] = _summary(self.estimates)
        numbers["bits_per_dim"] = _summary(self.estimates * self.bits_per_nat)
        numbers["negative_elbo"] = _summary(self.negative_elbo)
        if self.continuous_time_negative_elbo is not None:
            numbers["continuous_time_negative_elbo"] = _summary(self.continuous_time_negative_elbo)
        numbers["reconstruction"] = _summary(self.reconstruction)
        numbers["kl_z"] = _summary(self.kl_z.sum(axis=1))
        layers = self.kl_z.shape[1]
        numbers["kl_z_per_layer"] = {f"z_{layers - i}": _summary(self.kl_z[:, i]) for i in range(layers)}
        if self.kl_u:
            numbers["kl_u"] = _summary(sum(self.kl_u.values()))
            numbers["kl_u_terms"] = {name: _summary(values) for name, values in self.kl_u.items()}
        numbers["images"] = len(self.estimates)
        others = ("samples", "steps", "seed", "seconds", "image_samples_per_second", "bits_per_nat")
        return numbers | {name: getattr(self, name) for name in others}


def _mean_and_error(values):
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def _summary(values):
    mean, error = _mean_and_error(values)
    return {"mean": mean, "standard_error": None if math.isnan(error) else error}


def iwae(model, images, samples=100, steps=None, seed=0, batch_size=100, verbose=1, first=0, copies=()):
    """Bounds -log p(x) by importance weighting, all in the weight being evaluated at the same samples.

    log w = log p(x|z) + log p(z|u) - log q(z|x, u) - log q(u|x) + log p(y_1) + sum log p(y_s|y_t) + log p(u|y_0)
    - log q(y_0 ... y_1|u); the K samples of an image share its binary draw, if the likelihood makes one. The estimate
    -log(1/K sum w) is on average at least -log p(x) of the T-step process, and at K = 1 the negative ELBO.

    Args:
        model: `DVPVAE`.
        images: uint8 array, or float array in [0, 1], `[N, D, D, C]`, at least one.
        samples: int, K.
        steps: int or None, T of the diffusion process that is scored; None takes the prior's own.
        seed: int below 2^31, of all noise. Results depend on it and on the place of an image in `images`, not
            on the batch size.
        batch_size: int, rows that go through the model at a time, images times samples; it bounds the memory, with T.
        verbose: int, 1 for a progress bar with the estimate so far, 0 for silence.
        first: int, the place of the first image, where `images` are a part of what is evaluated, see `merged`.
        copies: list of `DVPVAE` on other devices, which take batches in turn with `model`, see
            `dvpvae_tf.distribute.devices.copies_on_other_devices`.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if a number or pixel is out of its range, there are no images or they are of another shape, `steps`
            is given for a model without a diffusion prior, or `adapt` has not been called.

    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """
    arguments = model, images, samples, steps, seed, batch_size, verbose, first, copies
    return _evaluate("iwae", _importance_log_weight, *arguments)


def elbo(model, images, samples=1, steps=None, seed=0, batch_size=100, verbose=1, first=0, copies=()):
    """Bounds -log p(x) by the negative ELBO (Eq. 15), its prior term that of T steps (Eq. 31).

    Args:
        model: see `iwae`.
        images: see `iwae`.
        samples: int, how many draws of all noise are averaged.
        steps: see `iwae`.
        seed: see `iwae`.
        batch_size: see `iwae`.
        verbose: see `iwae`.
        first: see `iwae`.
        copies: see `iwae`.

    Returns:
        `Evaluation`, whose estimates are its `negative_elbo`.

    Raises:
        ValueError: see `iwae`.
    """
    arguments = model, images, samples, steps, seed, batch_size, verbose, first, copies
    return _evaluate("elbo", None, *arguments)


def published(model, images, samples=100, steps=None, seed=0, batch_size=100, verbose=1, first=0, copies=()):
    """Estimates -log p(x) as the released test code does: not a bound, for comparison with Table 1 alone.

    It has the *analytic* KL of each layer inside the exponential, and for log r(u) an estimate that is too high, see
    `DiffusionPrior.released_estimate`.

    Args:
        model: see `iwae`.
        images: see `iwae`.
        samples: see `iwae`.
        steps: see `iwae`.
        seed: see `iwae`.
        batch_size: see `iwae`.
        verbose: see `iwae`.
        first: see `iwae`.
        copies: see `iwae`.

    Returns:
        `Evaluation`, whose `is_bound` is False.

    Raises:
        ValueError: see `iwae`.
    """
    arguments = model, images, samples, steps, seed, batch_size, verbose, first, copies
    return _evaluate("published", _published_log_weight, *arguments)


def negative_elbo_terms(model, images, seeds, steps=None):
    """Gives the terms of each image's negative ELBO of T steps from one draw, for graphs; `elbo` is for data sets.

    Args:
        model: `DVPVAE`.
        images: float32 tensor `[N, D, D, C]` in [0, 1].
        seeds: int32 tensor `[N, 2]`, one key an image, see `dvpvae_tf.noise.row_seeds`.
        steps: see `iwae`.

    Returns:
        dict of float32 tensors `[N]` in nats: "negative_elbo" and what it is the sum of, "reconstruction", "kl_z" and
        "kl_u" (0 for the Ladder VAE).

    Raises:
        ValueError: if `steps` is given for a model without a diffusion prior.
    """
    draw, _ = _draw(model, _encode(model, images, seeds), seeds, _steps(model, steps))
    terms = _terms(model, draw)
    total, reconstruction, kl_z = terms["negative_elbo"], terms["reconstruction"], tf.reduce_sum(terms["kl_z"], axis=1)
    return {
        "negative_elbo": total,
        "reconstruction": reconstruction,
        "kl_z": kl_z,
        "kl_u": total - reconstruction - kl_z,
    }


class _Encoded(NamedTuple):
    """What is computed once for each image."""

    features: Features
    target: object


class _Draw(NamedTuple):
    """One draw of everything for each row; `score` and `log_prob_u` are those of u, None for the Ladder VAE."""

    seeds: object
    inference: Inference
    log_likelihood: object
    score: TrajectoryScore | None
    log_prob_u: object


def _importance_log_weight(model, draw, steps):
    log_weight = draw.log_likelihood + tf.add_n(draw.inference.log_ratio)
    return log_weight if draw.score is None else log_weight + draw.score.log_weight - draw.log_prob_u


def _published_log_weight(model, draw, steps):
    log_weight = draw.log_likelihood - tf.add_n(draw.inference.kl)
    if draw.score is None:
        return log_weight
    u, terms = draw.inference.pseudoinput, draw.score.terms
    if steps is not None:
        fresh = noise.normal(noise.fork(draw.seeds, Purpose.RELEASED_ESTIMATE), steps * math.prod(u.shape[1:]))
        terms = model.prior.released_estimate(u, fresh, steps)
    return log_weight - tf.add_n(terms) - draw.log_prob_u


def _evaluate(name, log_weight, model, images, samples, steps, seed, batch_size, verbose, first, copies):
    """Goes through the images and their samples; `log_weight` is None where the negative ELBO is the estimate."""
    clock = _Clock()
    if min(samples, batch_size, 1 if steps is None else steps) < 1:
        raise ValueError(f"samples, steps and batch_size must be at least 1, got {samples}, {steps} and {batch_size}.")
    samples, steps, seed = int(samples), _steps(model, steps), int(seed)
    images = _checked_images(model, images)
    models = [model, *copies]
    size = smaller_batch(len(images), batch_size, len(models))
    report = _Report(len(images) * samples, clock, verbose)

    def evaluator(model):
        with device_of(model):
            encode = _encoder(model, images, seed)
            score = _scorer(model, encode.structured_outputs, samples, steps, seed, log_weight)

        def evaluate(start):
            with device_of(model):
                place = tf.constant(first + start)
                encoded, running = encode(tf.constant(images[start : start + size]), place), _Means()
                rows = len(encoded.target)
                for chosen in _chunks(samples, max(1, batch_size // rows)):
                    running.add(score(encoded, place, tf.constant(chosen)), len(chosen))
                    report.add(start, running, rows * len(chosen))
                return running.result()

        return evaluate

    finished = list(map_round_robin([evaluator(each) for each in models], range(0, len(images), size)))
    means = {key: np.concatenate([part[key] for part in finished]) for key in finished[0]}
    kl_u = {key.removeprefix("kl_u_"): means.pop(key) for key in list(means) if key.startswith("kl_u_")}
    return Evaluation(
        estimator=_describe(name, samples, steps),
        is_bound=name != "published",
        **{"continuous_time_negative_elbo": None, **means},
        kl_u=kl_u,
        samples=samples,
        steps=steps,
        seed=seed,
        seconds=clock.seconds,
        image_samples_per_second=clock.rate,
        bits_per_nat=model.bits_per_nat,
    )


def _steps(model, steps):
    """T, or None where the prior has no steps or there is no prior (the Ladder VAE)."""
    if model.prior is not None:
        return model.prior.check_steps(steps)
    if steps is not None:
        raise ValueError(NO_STEPS)
    return None


def _checked_images(model, images):
    """The images as an array that the model takes; all mistakes are told before any graph is made."""
    model.check_adapted()
    images = np.asarray(images)
    check_images(images, model.image_shape)
    if len(images) == 0:
        raise ValueError("There are no images to evaluate.")
    return images


def _describe(name, samples, steps):
    """An estimator in words for tables and files, such as "iwae, K = 100, T = 50"."""
    process = "" if steps is None else f", T = {steps}"
    return f"{name}, K = {samples}{process}" + (" (not a bound)" if name == "published" else "")


def _encode(model, images, seeds):
    target = model.target(images, seeds)
    return _Encoded(model.extract_features(target if model.binary_encoder_input else images), target)


def _encoder(model, images, seed):
    """The function from a batch of the images, the first of them number `first`, to `_Encoded`."""
    spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)

    @tf.function(input_signature=[spec, tf.TensorSpec([], tf.int32)])
    def encode(images, first):
        images = model.prepare(images)
        return _encode(model, images, noise.row_seeds(seed, Stream.EVALUATION, first, tf.shape(images)[0]))

    return encode.get_concrete_function()


def _scorer(model, encoded_spec, samples, steps, seed, log_weight):
    """The function from encoded images and the numbers of some of their samples to a dict of sums over these."""

    @tf.function
    def score(encoded, first, chosen):
        num_images, num_chosen = tf.shape(encoded.target)[0], tf.size(chosen)

        def seeds_of(sample):
            return noise.row_seeds(seed, Stream.FIRST_DRAW - sample, first, num_images)

        seeds = tf.map_fn(seeds_of, chosen, fn_output_signature=tf.TensorSpec([None, 2], tf.int32))
        # One row for each sample of each image, sample by sample.
        rows = _tile(encoded, num_chosen)
        draw, time_noise = _draw(model, rows, tf.reshape(seeds, [-1, 2]), steps)
        values = _terms(model, draw)
        if steps is not None:
            stratum = tf.repeat(tf.cast(chosen, tf.float32), num_images) / samples
            change = _continuous_diffusion(model, draw, time_noise, stratum, 1.0 / samples) - values["kl_u_diffusion"]
            values["continuous_time_negative_elbo"] = values["negative_elbo"] + change
        if log_weight is not None:
            values["log_weight"] = log_weight(model, draw, steps)
        return {
            key: (tf.reduce_logsumexp if key == "log_weight" else tf.reduce_sum)(
                tf.reshape(value, [num_chosen, num_images, *value.shape[1:]]), axis=0
            )
            for key, value in values.items()
        }

    return score.get_concrete_function(encoded_spec, tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32))


def _tile(encoded, times):
    """Repeats the images; the components of a VampPrior are no images."""

    def tile(value):
        return None if value is None else tf.tile(value, [times, 1, 1, 1])

    features = tf.nest.map_structure(tile, encoded.features._replace(top_components=None))
    features = features._replace(top_components=encoded.features.top_components)
    return _Encoded(features, tile(encoded.target))


def _draw(model, rows, seeds, steps):
    """A draw of u, its trajectory and z for each row, and the noise for one time of the continuous process."""
    trajectory_size, time_size = 0, 0
    if model.prior is not None:
        trajectory_size, time_size = model.prior.score_noise_size(steps), model.prior.bound_noise_size
    shapes = [(time_size,), (trajectory_size,), *model.walk_noise_shapes]
    time_noise, trajectory_noise, *walk_noise = noise.normals(noise.fork(seeds, Purpose.INFERENCE), shapes)
    inference = model.walk(rows.features, walk_noise)
    log_likelihood = model.likelihood.distribution(inference.likelihood_params).log_prob(rows.target)
    score, log_prob_u = None, None
    if model.prior is not None:
        score = model.prior.score(inference.pseudoinput, trajectory_noise, steps)
        log_prob_u = model.pseudoinput.log_prob(inference.pseudoinput, rows.features.pseudoinput_mean)
    return _Draw(seeds, inference, log_likelihood, score, log_prob_u), time_noise


def _terms(model, draw):
    """The terms of the negative ELBO and their sum, a dict of `[rows]` and, of the layers, `[rows, L]`."""
    values = {"reconstruction": -draw.log_likelihood, "kl_z": tf.stack(draw.inference.kl, axis=1)}
    total = values["reconstruction"] + tf.reduce_sum(values["kl_z"], axis=1)
    if draw.score is not None:
        terms = {f"kl_u_{name}": value for name, value in draw.score.terms._asdict().items()}
        terms["kl_u_negative_entropy"] = tf.zeros_like(total) - model.pseudoinput.entropy()
        values |= terms
        total += tf.add_n(list(terms.values()))
    return values | {"negative_elbo": total}


def _continuous_diffusion(model, draw, time_noise, start, length):
    """The diffusion term in continuous time at one time a row, uniform in [start, start + length]."""
    u = draw.inference.pseudoinput
    time = start + length * noise.to_uniform(time_noise[:, 0])
    return model.prior.diffusion_loss(u, time, tf.reshape(time_noise[:, 1:], tf.shape(u)))


def _chunks(total, size):
    """The numbers 0 ... total - 1 in ranges of the given size."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


class _Means:
    """Means over the samples of some images, kept in float64 as the samples come."""

    def __init__(self):
        self.count, self.sums, self.log_sum = 0, None, -np.inf

    def add(self, sums, count):
        """Adds what `_scorer`'s function gives for `count` samples."""
        sums = {key: np.asarray(value, "float64") for key, value in sums.items()}
        self.count += count
        self.log_sum = np.logaddexp(self.log_sum, sums.pop("log_weight", -np.inf))
        self.sums = {key: value + (self.sums[key] if self.sums else 0.0) for key, value in sums.items()}

    def result(self):
        """The means, and with them the estimates: -log of the mean weight, or the negative ELBO."""
        means = {key: value / self.count for key, value in self.sums.items()}
        weighted = np.ndim(self.log_sum) > 0
        return means | {"estimates": np.log(self.count) - self.log_sum if weighted else means["negative_elbo"]}


class _Report:
    """The progress bar with the estimate so far, for batches that may be computed at the same time."""

    def __init__(self, work, clock, verbose):
        self.clock, self.so_far, self.lock = clock, {}, threading.Lock()
        self.bar = keras.utils.Progbar(work, verbose=verbose, unit_name="sample", stateful_metrics=["nats"])

    def add(self, batch, means, work):
        """Tells the means so far of a batch, and how much work has been added to them."""
        with self.lock:
            self.clock.tick(work)
            self.so_far[batch] = means.result()["estimates"]
            self.bar.add(work, [("nats", np.concatenate(list(self.so_far.values())).mean())])


class _Clock:
    """Seconds since it was made, and the rate of work, without the first pass, which warms up."""

    def __init__(self):
        self.start = time.perf_counter()
        self.work, self.seconds, self.first = 0, 0.0, None

    def tick(self, work):
        """Counts finished work."""
        self.work += work
        self.seconds = time.perf_counter() - self.start
        self.first = self.first or (self.work, self.seconds)

    @property
    def rate(self):
        """float, work a second."""
        work, seconds = self.first if self.work > self.first[0] else (0, 0.0)
        return (self.work - work) / (self.seconds - seconds)


def merged(parts):
    """Joins the parts of a data set, each evaluated with `first`, the place of its first image.

    Args:
        parts: list of `Evaluation`, in their order, all with the same settings.

    Returns:
        `Evaluation` of the whole; its seconds are those of the slowest part, its rate is that of all together.
    """
    names = [field.name for field in dataclasses.fields(Evaluation)]
    arrays = [name for name in names if isinstance(getattr(parts[0], name), np.ndarray)]
    return dataclasses.replace(
        parts[0],
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays},
        kl_u={name: np.concatenate([part.kl_u[name] for part in parts]) for name in parts[0].kl_u},
        seconds=max(part.seconds for part in parts),
        image_samples_per_second=sum(part.image_samples_per_second for part in parts),
    )
