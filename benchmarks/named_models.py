"""Trained models that a command line names, as NAME=MODEL or NAME=MODEL@T."""

import argparse
import re
from typing import NamedTuple

from dvpvae_tf import load_model
from dvpvae_tf.errors import UserError
from dvpvae_tf.models.refit import with_ancestral_process


class NamedModel(NamedTuple):
    """A label, a trained model, and the T of its diffusion prior; None for the model's own."""

    name: str
    model: str
    steps: int | None


def named_model(given):
    """Reads NAME=MODEL or NAME=MODEL@T; the name may hold `=`."""
    match = re.fullmatch(r"(.+)=([^=]+?)(?:@(\d+))?", given)
    if match is None:
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=MODEL or NAME=MODEL@T")
    name, model, steps = match.groups()
    return NamedModel(name, model, int(steps) if steps else None)


def add_models(parser):
    """Adds the arguments `models` and `--ancestral`."""
    of_each = {"type": named_model, "metavar": "NAME=MODEL[@T]"}
    parser.add_argument("models", nargs="+", **of_each, help="a label, a trained model, and the steps of its prior")
    parser.add_argument(
        "--ancestral",
        nargs="+",
        default=[],
        **of_each,
        help="the same for models that take the paper's process, without their calibration",
    )


def load_models(arguments):
    """Returns pairs of a `NamedModel` and its Keras model in float32: of `models`, then of `ancestral`."""
    given = [*arguments.models, *arguments.ancestral]
    if len({named.name for named in given}) < len(given):
        raise UserError("two models have one name: give each its own")
    return [(named, _load(named, named in arguments.ancestral)) for named in given]


def _load(named, ancestral):
    model = load_model(named.model, "float32")
    if not model.has_steps and (ancestral or named.steps):
        raise UserError(f"{named.model} has no diffusion prior, so it takes neither @T nor --ancestral")
    return with_ancestral_process(model) if ancestral else model
