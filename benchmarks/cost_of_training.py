"""What the paper's three trainings cost: `python benchmarks/cost_of_training.py --help`.

Floating-point operations are counted in the graph of a training step. Hours are those operations divided by a sustained
rate: that of this machine, from the images per second that `benchmarks/train_step.py` prints for the MNIST model, and
for GPUs a share of the published float32 peak. This is an assumption, not a measurement: no GPU was at hand. The
paper's own hours are its seconds an epoch (Table 6, one A100) times its epochs (Table 7).
"""

import argparse
import json
from pathlib import Path

from dvpvae_tf import DVPVAE
from dvpvae_tf.config import load_config
from dvpvae_tf.experiments.costs import training_flops

TRAINING_IMAGES = {"mnist": 55_000, "omniglot": 23_345, "cifar10": 45_000}
PAPERS_EPOCH_SECONDS = {"mnist": 45, "cifar10": 370}
# Published peaks without tensor cores, operations a second: NVIDIA's data sheets of T4, A100 and H100 SXM.
PEAK_RATES = {"T4": 8.1e12, "A100": 19.5e12, "H100": 67e12}
BYTES_PER_GRADIENT = 4


def cost_of(preset, machine_rate, share):
    config, model = load_config(preset), DVPVAE.from_preset(preset)
    images = config.epochs * (TRAINING_IMAGES[preset] // config.batch_size) * config.batch_size
    an_image = training_flops(model, config.batch_size)
    seconds = {"this machine": images * an_image / machine_rate}
    seconds |= {name: images * an_image / (share * rate) for name, rate in PEAK_RATES.items()}
    if preset in PAPERS_EPOCH_SECONDS:
        seconds["the paper"] = config.epochs * PAPERS_EPOCH_SECONDS[preset]
    return {
        "preset": preset,
        "parameters": model.num_parameters,
        "gradient_bytes": model.num_parameters * BYTES_PER_GRADIENT,
        "flops_an_image": an_image,
        "images": images,
        "flops": images * an_image,
        "hours": {name: value / 3600 for name, value in seconds.items()},
    }


def as_table(costs):
    """Markdown, a row a training."""
    places = ["this machine", *PEAK_RATES, "the paper"]
    titles = ["", "parameters", "GFLOP an image and step", "images", "FLOPs", *(f"hours, {place}" for place in places)]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for cost in costs:
        hours = [f"{cost['hours'][place]:,.1f}" if place in cost["hours"] else "not given" for place in places]
        numbers = f"{cost['parameters']:,}", f"{cost['flops_an_image'] / 1e9:.2f}", f"{cost['images']:,}"
        lines.append([cost["preset"], *numbers, f"{cost['flops']:.1e}", *hours])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Work out what the paper's three trainings cost.")
    parser.add_argument("--presets", nargs="+", choices=TRAINING_IMAGES, default=list(TRAINING_IMAGES))
    parser.add_argument(
        "--images-per-second",
        type=float,
        default=250.0,
        help="what train_step.py has measured here for MNIST (default: %(default)s, two CPU cores)",
    )
    parser.add_argument("--share", type=float, default=0.3, help="of a GPU's peak (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    arguments = parser.parse_args()
    if min(arguments.images_per_second, arguments.share) <= 0:
        parser.error("--images-per-second and --share must be more than 0")
    return arguments


def main():
    arguments = parse_arguments()
    mnist = training_flops(DVPVAE.from_preset("mnist"), load_config("mnist").batch_size)
    machine_rate = arguments.images_per_second * mnist
    costs = [cost_of(preset, machine_rate, arguments.share) for preset in arguments.presets]
    print(as_table(costs))
    rates = ", ".join(f"{name} {arguments.share * rate / 1e12:.1f}" for name, rate in PEAK_RATES.items())
    print(f"\nSustained TFLOP/s: this machine {machine_rate / 1e12:.3f} (measured); {rates} (assumed)")
    if arguments.output:
        arguments.output.write_text(json.dumps(costs, indent=2) + "\n")


if __name__ == "__main__":
    main()
