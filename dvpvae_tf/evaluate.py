"""The command `python -m dvpvae_tf.evaluate`: how good a trained model is, by a true bound."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvpvae_tf.command_line.options import (
    add_data_arguments,
    add_model_arguments,
    add_process_arguments,
    add_sharding_arguments,
    count,
    count_or_all,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.distribute.sharding import Shard, fingerprint
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, write_atomically

if TYPE_CHECKING:
    import keras
    import numpy as np

    from dvpvae_tf.data.pipelines import LoadedDataset
    from dvpvae_tf.evaluation.parts import Part
    from dvpvae_tf.models import DVPVAE

FEWEST_FID_IMAGES = 4
FID_IMAGES = 10_000
DEFAULT_SAMPLES = {"iwae": 10, "elbo": 1, "published": 100}
DEFAULT_LIMIT = 500


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options.

    Raises:
        UserError: if an option is unknown, of no use beside the others, or its value is wrong.
    """
    parser = Parser("evaluate", "Estimate -log p(x) of images under a trained model, and show what it is made of.")
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument(
        "--estimator",
        choices=list(DEFAULT_SAMPLES),
        default="iwae",
        help="iwae and elbo are bounds; published, that of the authors' code, is not (default: %(default)s)",
    )
    defaults = "; ".join(f"{number} for {name}" for name, number in DEFAULT_SAMPLES.items())
    parser.add_argument("--samples", type=count, metavar="K", help=f"samples for each image (default: {defaults})")
    add_process_arguments(parser)
    parser.add_argument(
        "--limit",
        type=count_or_all,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="use the first N images, or all. The time grows with N times K: all and --samples 100 give the precise "
        "bound, in minutes to hours (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=count,
        default=100,
        help="images x samples computed at a time; memory grows with it and with T (default: %(default)s)",
    )
    add_sharding_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results to this .json file")
    fid = parser.add_argument_group("distances between features of generated and of real images")
    fid.add_argument(
        "--fid",
        nargs="?",
        const="inception",
        choices=("inception", "classifier"),
        help="FID and KID with InceptionV3, or the same distances with a classifier trained on the data set's labels",
    )
    fid.add_argument("--fid-images", type=count, help=f"most images of either kind for --fid (default: {FID_IMAGES})")
    fid.add_argument(
        "--inception-weights", metavar="FILE", help="weights file of Keras's InceptionV3 without its top layer"
    )
    fid.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="classifier to load, .keras; if it does not exist, it is trained and saved",
    )
    arguments = parser.parse_args(argv)
    arguments.samples = arguments.samples or DEFAULT_SAMPLES[arguments.estimator]
    for option, kind in (("inception_weights", "inception"), ("classifier", "classifier")):
        if getattr(arguments, option) and arguments.fid != kind:
            parser.error(f"--{option.replace('_', '-')} is for --fid {kind}")
    if arguments.fid_images and not arguments.fid:
        parser.error("--fid-images is for --fid")
    arguments.fid_images = arguments.fid_images or FID_IMAGES
    if arguments.fid_images < FEWEST_FID_IMAGES:
        parser.error(f"--fid-images is {arguments.fid_images}: give {FEWEST_FID_IMAGES} or more")
    if arguments.shard and (arguments.fid or not arguments.output):
        parser.error("--shard needs --output, and is not for --fid")
    return arguments


def evaluate(arguments: argparse.Namespace) -> tuple[Part, dict[str, Any] | None]:
    """Evaluates the model on the images of the shard, or on all images.

    Args:
        arguments: the options, as `parse_arguments` returns them.

    Returns:
        The evaluation, and with `--fid` the distances between features.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    from dvpvae_tf.command_line.inputs import data_settings, model_with_process_of, read_split_of, split_name
    from dvpvae_tf.distribute.devices import copies_on_other_devices
    from dvpvae_tf.evaluation.bounds import estimate
    from dvpvae_tf.evaluation.layer_statistics import layer_sums
    from dvpvae_tf.evaluation.parts import Part

    as_published = arguments.estimator == "published"  # the authors' code knows no other process
    model = model_with_process_of(arguments, ancestral=as_published)
    split, _ = read_split_of(arguments, model)
    images, name, chosen = split[: arguments.limit], data_settings(arguments)["name"], split_name(arguments)
    print(
        f"{arguments.estimator} of {len(images)} of the {len(split)} images of {name} ({chosen}), "
        f"{arguments.samples} samples each (see --limit and --samples)",
        flush=True,
    )
    rows = (arguments.shard or Shard(0, 1)).rows(len(images), arguments.batch_size)
    copies = copies_on_other_devices(model) if arguments.strategy == "mirrored" else []
    # The distances come first: what can go wrong with them must not cost the bound.
    distances = _feature_distances(arguments, model, split, copies) if arguments.fid else None
    shared = {"batch_size": arguments.batch_size, "first": rows.start, "copies": copies}
    mine = images[rows.start : rows.stop]
    result = estimate(arguments.estimator, model, mine, arguments.samples, arguments.steps, arguments.seed, **shared)
    settings = {
        "model": str(arguments.model),
        "weights": fingerprint(model.get_weights()),
        "dataset": name,
        "split": chosen,
        "mixed_precision": model.compute_dtype == "bfloat16",
        "images": fingerprint([images]),
        "batch_size": arguments.batch_size,
    }
    return Part(result, layer_sums(model, mine, arguments.seed, **shared, verbose=1), settings), distances


def _feature_extractor(arguments: argparse.Namespace, model: DVPVAE) -> tuple[Callable, str]:
    """The function from images to their features, and what to call them."""
    from dvpvae_tf.command_line.inputs import data_settings, dataset_of
    from dvpvae_tf.evaluation import features

    if arguments.fid == "inception":
        inception = features.load_inception(arguments.inception_weights)
        return functools.partial(features.inception_features, inception), features.INCEPTION_LABEL
    file = arguments.classifier
    if file and file.exists():
        classifier = features.load_classifier(file, model.image_shape)
    else:
        if file:
            check_output(file, [".keras"])
        data = dataset_of(arguments, model, labels=True)
        classifier = _train_classifier(data, data_settings(arguments)["name"], arguments.seed)
        if file:
            write_atomically(file, classifier.save)
    return functools.partial(features.classifier_features, classifier), features.CLASSIFIER_LABEL


def _train_classifier(data: LoadedDataset, name: str, seed: int) -> keras.Model:
    from dvpvae_tf.evaluation import features

    images, labels, *_ = data
    assert labels is not None  # they were asked for
    print(f"Training a classifier on the labels of {name}")
    classifier = features.train_classifier(images[0], labels[0], seed)
    accuracy = features.classifier_accuracy(classifier, images[2], labels[2])
    print(f"The classifier labels {accuracy:.1%} of the test images correctly")
    return classifier


def _feature_distances(
    arguments: argparse.Namespace, model: DVPVAE, real: np.ndarray, copies: Sequence[DVPVAE]
) -> dict[str, Any]:
    """The distances between images of the data and as many that the model generates."""
    import numpy as np

    from dvpvae_tf.evaluation.distances import feature_distances
    from dvpvae_tf.models.sampling import sample_in_batches

    extract, label = _feature_extractor(arguments, model)
    real = real[: arguments.fid_images]
    print(f"Generating {len(real)} images and computing features")
    drawn = sample_in_batches(
        model,
        len(real),
        seed=arguments.seed,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        copies=copies,
    )
    generated = np.concatenate([batch.images for batch in drawn])
    distances = feature_distances(extract(real), extract(generated), seed=arguments.seed)
    return {"features": label, "temperature": 1.0, **distances._asdict()}


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    if arguments.output:
        check_output(arguments.output, [".json"])
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.evaluation.parts import output_of_parts, save_part
    from dvpvae_tf.evaluation.report import report

    if arguments.shard:
        arguments.output = arguments.shard.part_of(output_of_parts(arguments.output))
    part, distances = evaluate(arguments)
    if arguments.shard:
        write_atomically(arguments.output, lambda path: save_part(path, part))
        print(f"wrote {arguments.output}")
        return
    report(part.results() | ({"feature_distances": distances} if distances else {}), arguments.output)


if __name__ == "__main__":
    main()
