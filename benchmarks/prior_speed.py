"""Times sampling and `iwae` with each prior of one model, all in one run: `python benchmarks/prior_speed.py --help`.

Each round takes all priors in turn, and the fastest round of each counts: other work on the machine slows some rounds.
"""

import argparse
import functools
import time

import numpy as np

from dvpvae_tf import evaluation, load_model
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.models.refit import with_ancestral_process, with_prior
from dvpvae_tf.priors import StandardPrior

ANCESTRAL_STEPS = 25


def jobs_of(arguments):
    """Names, models and numbers of steps. A standard normal prior, which costs nothing, stands for decoding alone."""
    calibrated, mixture = load_model(arguments.calibrated), load_model(arguments.mixture)
    return [
        ("decoding alone", with_prior(calibrated, StandardPrior(name="prior")), None),
        ("full mixture", mixture, None),
        (f"calibrated, T = {calibrated.prior.steps}", calibrated, calibrated.prior.steps),
        (f"ancestral, T = {ANCESTRAL_STEPS}", with_ancestral_process(calibrated), ANCESTRAL_STEPS),
    ]


def seconds_of(functions, rounds):
    """The shortest time of each function, after a first round that makes their graphs."""
    times = []
    for _ in range(rounds + 1):
        for function in functions:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return np.reshape(times, [rounds + 1, -1])[1:].min(axis=0)


def main():
    parser = argparse.ArgumentParser(description="Time sampling and iwae with each prior of one model.")
    parser.add_argument("--calibrated", required=True, help="model with a calibrated diffusion prior")
    parser.add_argument("--mixture", required=True, help="the same model with a full mixture")
    parser.add_argument("--images", type=int, default=1000, help="images to sample (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="draws for iwae (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    arguments = parser.parse_args()
    with exit_on_error():
        jobs = jobs_of(arguments)
    images = np.random.default_rng(0).integers(0, 256, (10, *jobs[0][1].image_shape), "uint8")
    samplers, estimates = [], []
    for _, model, steps in jobs:
        samplers.append(functools.partial(model.sample, arguments.images, steps=steps))
        estimates.append(
            functools.partial(evaluation.iwae, model, images, arguments.draws // 10, steps, batch_size=500, verbose=0)
        )
    sampling, estimating = seconds_of(samplers, arguments.rounds), seconds_of(estimates, arguments.rounds)
    print("| prior | sampling, s | over decoding alone | iwae, draws a second |\n|---|---|---|---|")
    for (name, *_), of_sampling, of_estimating in zip(jobs, sampling, estimating, strict=True):
        share, rate = of_sampling / sampling[0] - 1, arguments.draws / of_estimating
        print(f"| {name} | {of_sampling:.2f} | {share:+.0%} | {rate:.0f} |")


if __name__ == "__main__":
    main()
