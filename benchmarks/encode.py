"""Times `model.encode`, compiled and in batches, against `model.infer`, which computes eagerly."""

import argparse
import time

from dvpvae_tf import load_model
from dvpvae_tf.data.pipelines import read_images


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist_plus", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=4000, help="digits of mnist5k (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns (default: %(default)s)")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    images = read_images("mnist5k")[0][: arguments.images]
    first = seconds_of(lambda: model.encode(images[:250]))
    print(f"encode, the graph and the first 250: {first:.1f} s")
    ratios = []
    for _ in range(arguments.rounds):
        times = []
        for name, function in (
            ("encode, compiled, in batches of 250", lambda: model.encode(images)),
            ("infer, eager, all at once", lambda: model.infer(images, sample=False)),
        ):
            times.append(seconds_of(function))
            print(f"{name}: {times[-1]:.1f} s, {len(images) / times[-1]:.0f} images/s", flush=True)
        ratios.append(times[1] / times[0])
    print("encode is " + ", ".join(f"{ratio:.1f}" for ratio in ratios) + " times as fast as infer")


if __name__ == "__main__":
    main()
