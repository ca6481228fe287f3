"""Work shared out to devices, processes and machines: the results are those of one process on one device."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvpvae_tf import evaluate, merge, sample
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.distribute.devices import map_round_robin
from dvpvae_tf.distribute.sharding import Shard, parts_of
from dvpvae_tf.evaluation.layer_statistics import layer_sums
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.models.sampling import BATCHES_AT_ONCE

PROJECT = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "image_samples_per_second")


@pytest.fixture(scope="module")
def run_folder(leave_run, images):
    """A folder as training leaves it, with 13 test images in a file beside it."""
    folder = leave_run()
    np.save(folder / "test.npy", images(13))
    return folder


@pytest.fixture(scope="module")
def model(run_folder):
    return load_model(run_folder)


@pytest.fixture
def run(run_folder, model, tmp_path, monkeypatch):
    """Runs a command in an empty folder, on the run's data and model, which is loaded once, to make graphs once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_inputs, "model_of", lambda _: model)
    data = LoadedDataset((None, None, np.load(run_folder / "test.npy")))
    monkeypatch.setattr(command_inputs, "read_dataset", lambda **_: data)

    def run(module, **options):
        of_model = [] if module is merge else [f"--model={run_folder}"]
        module.main(of_model + [f"--{name.replace('_', '-')}={value}" for name, value in options.items()])

    return run


def read(path):
    return {key: value for key, value in json.loads(Path(path).read_text()).items() if key not in TIMES}


def numbers_of(results):
    """All numbers of nested results, in one list."""
    if isinstance(results, dict):
        return [number for value in results.values() for number in numbers_of(value)]
    return [results] if isinstance(results, (int, float)) else []


# Shards


@pytest.mark.parametrize("num", [1, 2, 5, 7, 12, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 200])
def test_shards_have_all_rows_once_and_in_order_none_empty(num, batch_size):
    for count in range(1, min(num, 6) + 1):
        parts = [Shard(index, count).rows(num, batch_size) for index in range(count)]
        assert [row for part in parts for row in part] == list(range(num)), count
        assert all(parts)
        if count * batch_size <= num:
            assert all(part.start % batch_size == 0 for part in parts), "whole batches, as one process has them"


@pytest.mark.parametrize("count", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_merged_evaluation_is_that_of_one_process(run, count, capsys):
    settings = {"samples": 3, "seed": 4, "batch_size": 4}
    run(evaluate, **settings, output="whole.json")
    whole_printed = capsys.readouterr().out
    for index in reversed(range(count)):  # in any order, at any time
        run(evaluate, **settings, shard=f"{index}/{count}", output="results.json")
    assert f"wrote results-evaluation-0-of-{count}.npz" in capsys.readouterr().out
    run(merge, output="results.json")
    printed = capsys.readouterr().out
    assert read("results.json") == read("whole.json")
    # All that people see but the time.
    seen = [text[text.index("-log p(x)") :].splitlines() for text in (printed, whole_printed)]
    merged, whole = ([line for line in lines if " per second" not in line] for lines in seen)
    assert [line for line in merged if line != "wrote results.json"] == whole


@pytest.mark.slow
def test_shards_of_fewer_batches_than_there_are_shards_agree_to_rounding(run):
    run(evaluate, samples=2, output="whole.json")
    for index in range(3):
        run(evaluate, samples=2, shard=f"{index}/3", output="results.json")
    run(merge, output="results.json")
    whole, results = read("whole.json"), read("results.json")
    assert results["images"] == 13
    np.testing.assert_allclose(numbers_of(results), numbers_of(whole), rtol=1e-5, atol=1e-5)


def test_the_statistics_of_layers_are_sums_over_the_parts(run_folder, model):
    data = np.load(run_folder / "test.npy")
    whole = layer_sums(model, data, batch_size=4)
    parts = [layer_sums(model, data[start:end], batch_size=4, first=start) for start, end in ((0, 8), (8, 13))]
    for added, expected in zip(parts[0].plus(parts[1]), whole, strict=True):
        np.testing.assert_allclose(added, expected, rtol=1e-12)
    elsewhere = layer_sums(model, data[8:], batch_size=4)
    assert np.abs(elsewhere.means - parts[1].means).max() > 1e-3, "noise depends on the place in the whole"


@pytest.mark.parametrize("count", [1, 3])
def test_merged_samples_are_those_of_one_process(run, count):
    run(sample, num=10, batch_size=3, seed=2, output="whole.npz")
    run(sample, num=10, batch_size=3, seed=2, output="whole")
    for index in range(count):
        for output in ("samples.npz", "samples"):
            run(sample, num=10, batch_size=3, seed=2, shard=f"{index}/{count}", output=output)
    # As they are, the parts hold each image once, under its name in the whole.
    names = sorted(path.name for path in Path().glob("samples-*/*.png"))
    assert names == [f"{index:06}.png" for index in range(10)]
    for output in ("samples.npz", "samples"):
        run(merge, output=output)
    with np.load("samples.npz") as merged, np.load("whole.npz") as whole:
        assert list(merged) == list(whole)
        for name in merged:
            np.testing.assert_array_equal(merged[name], whole[name])
    for name in names:
        np.testing.assert_array_equal(np.asarray(Image.open(f"samples/{name}")), Image.open(f"whole/{name}"))
    assert len(list(Path("samples").iterdir())) == 10


# Devices


def test_results_keep_their_order_and_each_function_its_thread():
    started = threading.Barrier(3, timeout=60)

    def worker(name):
        def work(item):
            if item < 3:
                started.wait()  # only passed where all three work at the same time
            return item, name, threading.get_ident()

        return work

    taken = []
    items = (taken.append(item) or item for item in range(20))
    results = map_round_robin([worker(name) for name in "abc"], items)
    first = next(results)
    assert len(taken) < 10, "later items wait until the first results are taken"
    results = [first, *results]
    assert [item for item, _, _ in results] == list(range(20))
    assert [name for _, name, _ in results] == [*"abc" * 6, "a", "b"]
    assert len({thread for _, _, thread in results}) == 3
    with pytest.raises(ZeroDivisionError):
        list(map_round_robin([lambda item: 1 // item] * 2, [1, 0, 1]))


ON_DEVICES = """
import contextlib
import importlib
import sys
import tensorflow as tf
devices, folder = int(sys.argv[1]), sys.argv[2]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
import numpy as np
from dvpvae_tf import evaluate, load_model, sample
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.distribute import devices as on_devices
from dvpvae_tf.evaluation import bounds
from dvpvae_tf.models import sampling
command_inputs.read_dataset = lambda **_: LoadedDataset((None, None, np.load(f"{folder}/test.npy")))
used = []

def counting(functions, items):
    used.append(len(functions))
    return on_devices.map_round_robin(functions, items)

# The function of this name hides the module in its package.
layer_statistics = importlib.import_module("dvpvae_tf.evaluation.layer_statistics")
for module in (bounds, layer_statistics, sampling):
    module.map_round_robin = counting
common = ["--model", folder, "--seed", "4", "--strategy", "mirrored"]

def as_beside_gpus(create, **options):
    with tf.device("CPU:0") if "int" in options["dtype"] else contextlib.nullcontext():
        return create(**options)

with tf.variable_creator_scope(as_beside_gpus):
    evaluate.main([*common, "--samples", "3", "--batch-size", "3", "--output", f"{devices}.json"])
    sample.main([*common, "--num", "11", "--batch-size", "2", "--output", f"{devices}.npz"])
    model = load_model(folder)
    copies = on_devices.copies_on_other_devices(model)
print("used", used)
assert {each.training_steps.value.device[-5:] for each in (model, *copies)} == {"CPU:0"}
for each in (model, *copies):
    with on_devices.device_of(each):
        print("device", tf.zeros([]).device[-5:])
"""


@pytest.mark.slow
def test_all_devices_give_what_one_gives(run, run_folder, tmp_path):
    """13 images in batches of 3 and 11 samples in batches of 2, on 1, 2 and 4 devices: none of them fits.

    Integer variables are on the first device, as TensorFlow has no place for some on GPUs.
    """
    run(evaluate, seed=4, samples=3, batch_size=3, output="1.json")
    run(sample, seed=4, num=11, batch_size=2, output="1.npz")
    for devices in (2, 4):
        command = [sys.executable, "-c", ON_DEVICES, str(devices), str(run_folder)]
        environment = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert result.returncode == 0, result.stderr[-3000:]
        used = [devices, devices, BATCHES_AT_ONCE * devices]  # the bound, the statistics of the layers, the samples
        assert f"used {used}" in result.stdout
        assert result.stdout.splitlines()[-devices:] == [f"device CPU:{index}" for index in range(devices)]
    one = read(tmp_path / "1.json")
    for devices in (2, 4):
        assert read(tmp_path / f"{devices}.json") == one
        with np.load(tmp_path / f"{devices}.npz") as several, np.load(tmp_path / "1.npz") as single:
            for name in single:
                np.testing.assert_array_equal(several[name], single[name])


# Mistakes


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (sample, {"shard": "3/3", "output": "x.npz"}, "--shard: 3/3 is not a shard: the three shards of a job are 0/3"),
        (sample, {"shard": "1", "output": "x.npz"}, "--shard: 1 is not a shard"),
        (sample, {"shard": "0/2", "output": "x.png"}, "--shard is not for a grid"),
        (sample, {"shard": "0/9", "output": "x.npz", "num": 8}, "8 images cannot be shared out to 9 shards: take 8 at"),
        (sample, {"shard": "0/2", "output": "old.npz"}, "old-0-of-2.npz is there already: remove what an earlier job"),
        (evaluate, {"shard": "0/2"}, "--shard needs --output, and is not for --fid"),
        (evaluate, {"shard": "0/14", "output": "x.json"}, "13 images cannot be shared out to 14 shards"),
        (merge, {"output": "none.npz"}, "there is no none-0-of-1.npz or the like: run the job with --shard first"),
        (merge, {"output": "old.npz"}, "old-1-of-2.npz is missing: run --shard 1/2 first"),
        (merge, {"output": "two.npz"}, "there are parts of two.npz from 1 and from 2 shards: remove those not meant"),
        (merge, {"output": "broken.npz"}, "broken-0-of-1.npz is damaged, or no part of sampling"),
        (merge, {"output": "foreign"}, "foreign-0-of-1 is no part of sampling"),
        (merge, {"output": "broken.json"}, "broken-evaluation-0-of-1.npz is damaged, or no part of an evaluation"),
        (merge, {"output": "x.png"}, "the output is x.png: give it a name that ends in .json or .npz"),
    ],
)
def test_mistakes_give_a_one_line_error(run, capsys, module, options, message):
    for name in ("old-0-of-2", "two-0-of-1", "two-0-of-2", "broken-0-of-1", "broken-evaluation-0-of-1"):
        Path(f"{name}.npz").touch()
    Path("foreign-0-of-1").mkdir()
    with pytest.raises(SystemExit) as stop:
        run(module, **options)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def merge_error(run, capsys, output):
    with pytest.raises(SystemExit) as stop:
        run(merge, output=output)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and not Path(output).exists()
    return error


def test_parts_of_different_evaluations_are_not_merged(run, capsys, run_folder, monkeypatch):
    for index, seed in enumerate((1, 2)):
        run(evaluate, samples=1, seed=seed, batch_size=7 - index, shard=f"{index}/2", output="results.json")
    assert "error: the parts are not of one job: batch_size, seed differ" in merge_error(run, capsys, "results.json")
    parts = [Path("results-evaluation-0-of-2.npz"), Path("results-evaluation-1-of-2.npz")]
    assert parts_of(Path("results-evaluation.npz")) == parts
    assert f"{parts[0]} is damaged, or no part of sampling" in merge_error(run, capsys, "results-evaluation.npz")
    others = LoadedDataset((None, None, np.load(run_folder / "test.npy")[::-1].copy()))
    monkeypatch.setattr(command_inputs, "read_dataset", lambda **_: others)
    run(evaluate, samples=1, seed=1, batch_size=7, shard="1/2", output="results.json")
    assert "error: the parts are not of one job: images differ" in merge_error(run, capsys, "results.json")


def test_parts_of_samples_and_of_an_evaluation_of_one_name_do_not_touch(run):
    for index in range(2):
        run(sample, num=4, shard=f"{index}/2", output="both.npz")
        run(evaluate, samples=1, shard=f"{index}/2", output="both.json")
    for output in ("both.npz", "both.json"):
        run(merge, output=output)
    with np.load("both.npz") as samples:
        assert len(samples["images"]) == 4
    assert read("both.json")["images"] == 13


@pytest.mark.parametrize("output", ["samples.npz", "samples"])
def test_parts_of_different_samplings_are_not_merged(run, capsys, output, run_folder, monkeypatch):
    common = {"num": 4, "batch_size": 2, "output": output}
    run(sample, **common, shard="0/2")
    run(sample, **common | {"num": 5}, seed=1, temperature=1, shard="1/2")
    assert "error: the parts are not of one job: num, seed, temperature differ" in merge_error(run, capsys, output)
    part = Shard(1, 2).part_of(Path(output))
    part.rename(f"other{part.suffix}")
    load_model = command_inputs.model_of

    def trained_on(arguments):
        model = load_model(arguments)
        model.set_weights([weight * 1.01 for weight in model.get_weights()])
        return model

    monkeypatch.setattr(command_inputs, "model_of", trained_on)
    run(sample, **common, shard="1/2")
    assert "error: the parts are not of one job: weights differ" in merge_error(run, capsys, output)
