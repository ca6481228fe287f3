"""Tells test digits from other pictures by their likelihood and by their typicality; prints a table of AUROC.

For a model with labels it also prints how many test digits that classifies correctly. docs/using_a_model.md has figures
and their commands.
"""

import argparse

import numpy as np
from scipy import stats

from dvpvae_tf import evaluation, load_model
from dvpvae_tf.data.pipelines import read_dataset, read_images
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.priors import LabelledMixturePrior


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mnist_plus", help="a model of digits (default: %(default)s)")
    parser.add_argument("--dataset", default="mnist", help="whose test images are typical (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--omniglot-mat", metavar="FILE", help="chardata.mat; without it OMNIGLOT is left out")
    parser.add_argument("--images", type=int, default=1000, help="of each kind (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=10, help="draws an image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args()


def auroc(typical, other):
    """The probability that a score of `other` is above one of `typical`; a tie counts half."""
    ranks = stats.rankdata(np.concatenate([typical, other]))
    return (ranks[len(typical) :].sum() / len(other) - (len(other) + 1) / 2) / len(typical)


def other_pictures(test, arguments):
    """The kinds of pictures that are no digits of the data set."""
    noise = np.random.default_rng(arguments.seed).normal(0, 64, test.shape)
    kinds = {
        "mirrored": test[:, :, ::-1],
        "inverted": 255 - test,
        "noisy": np.clip(test + noise, 0, 255).astype("uint8"),
        "blank": np.zeros_like(test),
    }
    if arguments.omniglot_mat:
        omniglot = read_images("omniglot", omniglot_mat=arguments.omniglot_mat)
        kinds["OMNIGLOT"] = np.concatenate(omniglot[::-1])[: len(test)]
    return kinds


def main():
    arguments = parse_arguments()
    with exit_on_error():
        model = load_model(arguments.model)
        labelled = isinstance(model.prior, LabelledMixturePrior)
        images, labels, *_ = read_dataset(arguments.dataset, arguments.data_dir, labels=labelled)
        test = images[2][: arguments.images]

        def scores_of(pixels):
            return evaluation.score(model, pixels, arguments.samples, seed=arguments.seed, verbose=0)

        reference = scores_of(images[1][: arguments.images]).terms
        typical = scores_of(test)
        print(f"{arguments.model}: {len(test)} test images, K = {arguments.samples}, seed {arguments.seed}\n")
        if labelled:
            right = evaluation.label_log_probs(model, typical).argmax(axis=1) == labels[2][: arguments.images]
            print(f"{right.mean():.1%} of them are classified correctly\n")
        print("| pictures | -log p(x), nats | AUROC of -log p(x) | AUROC of typicality |\n|---|---|---|---|")
        print(f"| test digits | {typical.nats.mean():.1f} | | |")
        for kind, pixels in other_pictures(test, arguments).items():
            scores = scores_of(pixels)
            of_nats = auroc(typical.nats, scores.nats)
            of_typicality = auroc(*(evaluation.typicality(each.terms, reference) for each in (typical, scores)))
            print(f"| {kind} | {scores.nats.mean():.1f} | {of_nats:.3f} | {of_typicality:.3f} |", flush=True)


if __name__ == "__main__":
    main()
