r"""Compares priors over u by the pictures that they give: `python benchmarks/prior_pictures.py --help`.

    python benchmarks/prior_pictures.py "full mixture=mnist_plus" "calibrated, T = 5=mnist@5" \
        --ancestral "ancestral, T = 50=mnist@50" --output priors.png

Samples at temperature 1 are compared with test images by the features of a classifier that is trained on the labels of
the data set. All priors take the same seeds. Each number of samples has its own level: compare equal numbers only.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from named_models import add_models, load_models

from dvpvae_tf import evaluation, pictures
from dvpvae_tf.data.pipelines import read_dataset
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, markdown_table
from dvpvae_tf.models.sampling import sample_in_batches


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare priors over u by the Frechet distances of their samples.")
    add_models(parser)
    parser.add_argument("--dataset", default="mnist", help="as in training, with labels (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--num", type=int, default=2000, help="samples, and images of a set (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the samples (default: 0 1)")
    parser.add_argument("--sets", type=int, default=5, help="sets of test images at most (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=16, help="samples in the picture (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png", help="a row of samples of each prior")
    return parser.parse_args()


def sets_of(test, num, most):
    """Disjoint sets of `num` test images, at most `most` of them."""
    count = min(most, len(test) // num)
    if count < 2:
        raise UserError(f"there are {len(test)} test images, which are no two sets of {num}: give a smaller --num")
    return np.split(test[: count * num], count)


def distances(some, others):
    """Frechet distances, one row for each of `some` sets of features and a column for each of `others`."""
    return np.array([[evaluation.frechet_distance(one, other) for other in others] for one in some])


def table(real, found):
    """Lines of Markdown; `found` has the features of each prior's samples, a set for each seed."""
    floor = [evaluation.frechet_distance(*pair) for pair in itertools.combinations(real, 2)]
    rows = [["test images, set against set", f"{np.mean(floor):.2f}", "", f"{min(floor):.2f} to {max(floor):.2f}"]]
    for name, features in found.items():
        values = distances(features, real)
        of_seeds = values.mean(axis=1)
        spread = f"{of_seeds.min():.2f} to {of_seeds.max():.2f}"
        rows.append([name, f"{values.mean():.2f}", spread, f"{values.min():.2f} to {values.max():.2f}"])
    return markdown_table(["prior", "Frechet distance", "means of the seeds", "all pairs of sets"], rows)


def draw(model, steps, arguments):
    """The samples of a model, an array for each seed."""
    for seed in arguments.seeds:
        parts = sample_in_batches(model, arguments.num, seed=seed, steps=steps)
        yield np.concatenate([part.images for part in parts])


def measure(arguments):
    """The features of the sets of test images, those of each prior's samples, and the rows of the picture."""
    data = read_dataset(arguments.dataset, arguments.data_dir, labels=True)
    (train, _, test), (labels, _, test_labels) = data.images, data.labels
    sets = sets_of(test, arguments.num, arguments.sets)
    classifier = evaluation.train_classifier(train, labels)
    accuracy = evaluation.classifier_accuracy(classifier, test, test_labels)
    print(f"The classifier labels {accuracy:.1%} of the test images correctly")

    def features_of(sets):
        found = evaluation.classifier_features(classifier, np.concatenate(sets), verbose=0)
        return np.split(found, len(sets))

    found, rows = {}, []
    for named, model in load_models(arguments):
        print(named.name)
        samples = list(draw(model, named.steps, arguments))
        found[named.name] = features_of(samples)
        rows.append(samples[0][: arguments.columns])
    return features_of(sets), found, rows


def main():
    arguments = parse_arguments()
    with exit_on_error():
        check_output(arguments.output, [".png"])
        real, found, rows = measure(arguments)
        pictures.save(arguments.output, rows)
    print(*table(real, found), sep="\n")
    print(
        f"{arguments.num} samples at temperature 1 of each of {len(arguments.seeds)} seeds, against {len(real)} sets "
        f"of {arguments.num} test images. {arguments.output} has a row of samples of each prior, in this order"
    )


if __name__ == "__main__":
    main()
