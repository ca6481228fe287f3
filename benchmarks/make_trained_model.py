"""Evaluates a trained model on test images and saves it among those of the library; `--help` lists the options."""

import argparse
from pathlib import Path

from dvpvae_tf import evaluation, load_model
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error

TRAINED_MODELS = Path(__file__).parents[1] / "dvpvae_tf" / "trained_models"


def parse_arguments():
    parser = argparse.ArgumentParser(description="Evaluate a trained model and save it among those of the library.")
    parser.add_argument(
        "--model", required=True, help="a trained model, the folder of a training run, or a .keras file"
    )
    parser.add_argument("--name", required=True, help="its name")
    parser.add_argument("--dataset", required=True, help="as in training")
    parser.add_argument("--epochs", type=int, required=True, help="epochs of its training")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--limit", type=int, default=200, help="test images to evaluate (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="K of iwae (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with exit_on_error():
        model = load_model(arguments.model, "float32")
        test = read_images(arguments.dataset, arguments.data_dir)[2][: arguments.limit]
        result = evaluation.iwae(model, test, arguments.samples, seed=arguments.seed, batch_size=500).summary()
        bound = {
            "estimator": result["estimator"],
            "test_images": len(test),
            "seed": arguments.seed,
            "samples": arguments.samples,
            "steps": result["steps"],
            "process": result["process"],
            "prior": None if model.prior is None else type(model.prior).__name__,
            "nats": result["nats"],
            "negative_elbo": result["negative_elbo"],
        }
        model.save_to_preset(
            TRAINED_MODELS / arguments.name, dataset=arguments.dataset, epochs=arguments.epochs, bound=bound
        )
        print(f"{TRAINED_MODELS / arguments.name}: {bound['estimator']} {bound['nats']['mean']:.2f} nats")


if __name__ == "__main__":
    main()
