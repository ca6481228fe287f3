"""Says where a training step spends its time, by kind of operation: `python benchmarks/step_profile.py --help`.

Times are summed over the threads that run operations, so that they may add up to more than the step takes.
"""

import argparse
import collections
import re
import tempfile
import time
from pathlib import Path

from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from dvpvae_tf.config import TrainConfig, load_config
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.experiments.costs import time_training_steps
from dvpvae_tf.training.loop import make_model

KINDS = {
    "convolution, forward": ("Conv2D", "FusedConv2D"),
    "convolution, gradient of the input": ("Conv2DBackpropInput",),
    "convolution, gradient of the kernel": ("Conv2DBackpropFilter",),
    "matrix product": ("MatMul", "BatchMatMulV2", "FusedMatMul", "Einsum"),
    "SiLU and its gradient": ("Swish", "Sigmoid", "SigmoidGrad"),
    "concatenation and slices": ("ConcatV2", "Slice", "StridedSlice", "Split", "SplitV", "Pack", "Unpack"),
    "transposition, reshaping, padding": ("Transpose", "Reshape", "Pad", "Tile", "SpaceToBatchND", "BatchToSpaceND"),
    "resizing": (
        "ResizeBilinear",
        "ResizeBilinearGrad",
        "ResizeNearestNeighbor",
        "ResizeNearestNeighborGrad",
        "AvgPool",
    ),
    "sums and means": ("Sum", "Mean", "Max", "BiasAddGrad", "L2Loss", "AddN"),
}


def kind_of(operation):
    """The kind of an operation of TensorFlow; all that is not in `KINDS` is element by element, or small."""
    operation = re.sub("^_(Mkl(Native)?)?", "", operation)  # where oneDNN computes it, or it is fused with another
    return next((kind for kind, names in KINDS.items() if operation in names), "element by element, and the rest")


def operation_seconds(folder):
    """Seconds by type of operation, from the files that TensorFlow's profiler wrote; its other events do not count."""
    seconds = collections.Counter()
    for file in Path(folder).rglob("*.xplane.pb"):
        for plane in xplane_pb2.XSpace.FromString(file.read_bytes()).planes:
            for line in plane.lines:
                for event in line.events:
                    name = plane.event_metadata[event.metadata_id].name
                    operation = name.rpartition(":")[2]
                    if ":" in name and (hasattr(tf.raw_ops, operation) or operation.startswith("_")):
                        seconds[operation] += event.duration_ps * 1e-12
    return seconds


def profile(config, steps):
    """Seconds of a step, and seconds by type of operation in it."""
    model = make_model(config, steps_per_epoch=1000)
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, *model.image_shape), "uint8")
    model.adapt(images)
    time_training_steps(model, images, 3)  # traces, and warms up
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        start = time.perf_counter()
        time_training_steps(model, images, steps)
        duration = time.perf_counter() - start
        tf.profiler.experimental.stop()
        found = operation_seconds(folder)
    return duration / steps, {operation: seconds / steps for operation, seconds in found.items()}


def main():
    parser = argparse.ArgumentParser(description="Print where a training step spends its time.")
    parser.add_argument("--preset", default="mnist", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=250, help="images in a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="profiled steps (default: %(default)s)")
    parser.add_argument("--mixed-precision", action="store_true", help="compute in bfloat16")
    parser.add_argument("--operations", action="store_true", help="print the 30 types of operation that take longest")
    arguments = parser.parse_args()
    names = set(TrainConfig.model_fields)
    with exit_on_error():
        settings = {name: value for name, value in vars(arguments).items() if name in names}
        config = load_config(arguments.preset, settings)
    step, operations = profile(config, arguments.steps)
    kinds = collections.Counter()
    for operation, seconds in operations.items():
        kinds[kind_of(operation)] += seconds
    total = sum(kinds.values())
    print(f"{config.name}, batch {config.batch_size}, TensorFlow {tf.__version__}: {1000 * step:.0f} ms a step")
    print(f"| operations | ms of all threads | share of {1000 * total:.0f} ms |\n|---|---|---|")
    for kind, seconds in kinds.most_common():
        print(f"| {kind} | {1000 * seconds:.0f} | {seconds / total:.0%} |")
    if arguments.operations:
        for operation, seconds in collections.Counter(operations).most_common(30):
            print(f"{1000 * seconds:8.1f} ms {operation}")


if __name__ == "__main__":
    main()
