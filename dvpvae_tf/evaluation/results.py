"""The result of an evaluation: numbers for each image, and their means with standard errors."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np


class MeanAndError(TypedDict):
    """The mean over the images and its standard error; the error is None if there is only one image."""

    mean: float
    standard_error: float | None


def mean_and_error(values: np.ndarray, scale: float = 1.0) -> MeanAndError:
    """Computes the mean and its standard error.

    Args:
        values: `[N]`, one number an image.
        scale: factor of both results.

    Returns:
        `MeanAndError`.
    """
    error = None if len(values) == 1 else scale * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {"mean": scale * float(values.mean()), "standard_error": error}


def plus_minus(value: MeanAndError, digits: int = 2, scale: float = 1.0) -> str:
    """Formats a mean with its standard error.

    Args:
        value: the two numbers.
        digits: digits after the point.
        scale: factor of both numbers.

    Returns:
        str such as "110.23 +- 1.70", or "110.23" where there is no standard error.
    """
    mean = f"{value['mean'] * scale:.{digits}f}"
    error = value["standard_error"]
    return mean if error is None else f"{mean} +- {error * scale:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An estimate of -log p(x) for each image, and the terms of the negative ELBO.

    Arrays are float64 with one row an image, in nats; each term is the mean over the draws of the image.

    Attributes:
        estimator: name of the estimator, with the number of draws and of diffusion steps.
        is_bound: whether the expectation of the estimates is at least -log p(x).
        estimates: `[N]`.
        negative_elbo: `[N]`, with the prior term of T steps.
        reconstruction: `[N]`, -log p(x|z).
        kl_z: `[N, L]`, top layer first, in closed form given the layers above.
        kl_u: dict of `[N]`, the terms of the KL of u: "diffusion" (T steps), "reconstruction" and "prior_kl" of Eq. 31,
            or "cross_entropy" of another prior, and "negative_entropy" of r(u|x). Empty for the Ladder VAE.
        continuous_time_negative_elbo: `[N]`, with the prior term in continuous time, or None without a diffusion prior.
        samples: K, the number of draws an image.
        steps: T, or None without a diffusion prior.
        process: "ancestral" or "calibrated", how the diffusion prior takes its steps; None without one.
        seed: random seed.
        seconds: duration, with the tracing of the graph.
        image_samples_per_second: draws a second, without the first batch.
        bits_per_nat: nats an image times this are bits per dimension.
    """

    estimator: str
    is_bound: bool
    estimates: np.ndarray
    negative_elbo: np.ndarray
    reconstruction: np.ndarray
    kl_z: np.ndarray
    kl_u: dict[str, np.ndarray]
    continuous_time_negative_elbo: np.ndarray | None
    samples: int
    steps: int | None
    process: str | None
    seed: int
    seconds: float
    image_samples_per_second: float
    bits_per_nat: float

    @property
    def total_kl_u(self) -> np.ndarray:
        """The KL of u, the sum of its terms: `[N]` in nats; 0 for the Ladder VAE."""
        return sum(self.kl_u.values(), np.zeros(len(self.estimates)))

    def summary(self) -> dict[str, Any]:
        """Computes the means over the images, with their standard errors.

        Returns:
            dict that JSON can hold. `MeanAndError` in nats: "nats" (the estimate), "negative_elbo",
            "continuous_time_negative_elbo", "reconstruction", "kl_z" and "kl_u"; the estimate in bits: "bits_per_dim".
            Dicts of `MeanAndError`: "kl_z_per_layer" (from "z_L" to "z_1") and "kl_u_terms". What the model does not
            have is left out. Beside them "estimator", "is_bound", "images", the settings and the times.
        """
        layers = self.kl_z.shape[1]
        numbers: dict[str, Any] = {
            "estimator": self.estimator,
            "is_bound": self.is_bound,
            "nats": mean_and_error(self.estimates),
            "bits_per_dim": mean_and_error(self.estimates, self.bits_per_nat),
            "negative_elbo": mean_and_error(self.negative_elbo),
            "reconstruction": mean_and_error(self.reconstruction),
            "kl_z": mean_and_error(self.kl_z.sum(axis=1)),
            "kl_z_per_layer": {f"z_{layers - i}": mean_and_error(self.kl_z[:, i]) for i in range(layers)},
        }
        if self.continuous_time_negative_elbo is not None:
            numbers["continuous_time_negative_elbo"] = mean_and_error(self.continuous_time_negative_elbo)
        if self.kl_u:
            numbers["kl_u"] = mean_and_error(self.total_kl_u)
            numbers["kl_u_terms"] = {name: mean_and_error(values) for name, values in self.kl_u.items()}
        others = ("samples", "steps", "process", "seed", "seconds", "image_samples_per_second", "bits_per_nat")
        return numbers | {"images": len(self.estimates)} | {name: getattr(self, name) for name in others}


def concatenate(parts: Sequence[Evaluation]) -> Evaluation:
    """Joins the evaluations of the parts of a data set.

    Args:
        parts: in their order, all with the same settings; each evaluated with `first`, the index of its first image.

    Returns:
        `Evaluation` of the whole. `seconds` is the time of the slowest part. The rate is the sum of the rates.
    """
    names = [field.name for field in dataclasses.fields(Evaluation)]
    arrays = [name for name in names if isinstance(getattr(parts[0], name), np.ndarray)]
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    return dataclasses.replace(
        parts[0],
        **joined,
        kl_u={name: np.concatenate([part.kl_u[name] for part in parts]) for name in parts[0].kl_u},
        seconds=max(part.seconds for part in parts),
        image_samples_per_second=sum(part.image_samples_per_second for part in parts),
    )
