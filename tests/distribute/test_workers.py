"""Several machines, as processes on loopback: they train as one does, the chief alone writes, a lost one ends all."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import training
from dvpvae_tf.config import load_config
from dvpvae_tf.data.pipelines import evaluation_batches, share_of_worker, training_batches
from dvpvae_tf.distribute import workers
from dvpvae_tf.distribute.strategies import make_strategy
from dvpvae_tf.errors import UserError, WorkerLost, exit_on_error
from dvpvae_tf.train import main

LOST = 1  # the exit code of a worker that has lost another
EPOCHS, STEPS = 2, 4

# The command, without the slow rewriting of graphs, and what the model of this worker holds in the end. TensorFlow
# takes all GPUs of a worker but one CPU alone: here it is told to take as many as DEVICES says. Where REPORTS is 0, the
# best model is neither calibrated nor tested.
COMMAND = """
import os
import sys
from pathlib import Path
import dvpvae_tf.backend.quiet_tensorflow
from dvpvae_tf.training import loop
import numpy as np
import tensorflow as tf
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
if devices := int(os.environ["DEVICES"]):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker: (
        tuple(f"{worker}/device:CPU:{index}" for index in range(devices)), "CPU"
    )
from dvpvae_tf.train import main
from dvpvae_tf.training import callbacks
if not int(os.environ["REPORTS"]):
    loop._report = lambda *arguments: None
callbacks.TensorBoardPictures.on_epoch_end = lambda *arguments: None
models = []
make_model = loop.make_model
loop.make_model = lambda *arguments: models.append(make_model(*arguments)) or models[-1]
main(sys.argv[2:])
np.savez(sys.argv[1], *models[-1].get_weights())
"""


def parts_of(batches, num_workers, devices):
    """The parts of all devices, for each worker, as lists of the first pixels."""
    for worker in range(num_workers):
        context = tf.distribute.InputContext(num_workers, worker, num_workers * devices)
        parts = share_of_worker(batches, 12, context)
        yield [part[:, 0, 0, 0].tolist() for part in parts.take(4 * devices).as_numpy_iterator()]


@pytest.mark.parametrize(("num_workers", "devices"), [(1, 1), (1, 4), (2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_the_devices_of_one_worker_after_another_share_out_each_global_batch_in_its_order(num_workers, devices, kind):
    images = np.arange(40, dtype="uint8").reshape(40, 1, 1, 1)
    batches = training_batches(images, 12, first_epoch=0) if kind == "training" else evaluation_batches(images, 12)
    shares = list(parts_of(batches, num_workers, devices))
    for step, batch in enumerate(batches.take(4).as_numpy_iterator()):
        parts = [part for share in shares for part in share[devices * step : devices * (step + 1)]]
        assert sum(parts, []) == batch.ravel().tolist()
        if len(batch) == 12:
            assert [len(part) for part in parts] == num_workers * devices * [12 // (num_workers * devices)]
    assert kind == "evaluation" or share_of_worker(batches, 12, tf.distribute.InputContext()).cardinality() < 0


TWO = {"worker": ["localhost:1", "localhost:2"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "needs the environment variable TF_CONFIG, such as {"),
        ("{cluster", "TF_CONFIG cannot be read"),
        ("[]", "TF_CONFIG cannot be read"),
        ({"task": {"type": "worker", "index": 0}}, "TF_CONFIG has no 'cluster': it should look like"),
        ({"cluster": TWO}, "TF_CONFIG has no 'task'"),
        ({"cluster": TWO, "task": {"type": "worker"}}, "TF_CONFIG has no 'index'"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "worker 2, which is not in its cluster"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "chief 0, which is not in its cluster"),
        ({"cluster": TWO | {"ps": ["a:1"]}, "task": {"type": "worker", "index": 0}}, "has worker, ps: give workers"),
        (
            {"cluster": {"worker": "localhost:1"}, "task": {"type": "worker", "index": 0}},
            'TF_CONFIG has "localhost:1" as worker: give a list of addresses host:port',
        ),
        ({"cluster": {"worker": ["one", "two"]}, "task": {"type": "worker", "index": 0}}, 'has ["one", "two"] as'),
        ({"cluster": {"worker": ["a:1:2", "b:1"]}, "task": {"type": "worker", "index": 0}}, 'has ["a:1:2", "b:1"]'),
        ({"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}, "TF_CONFIG has [1, 2] as worker"),
        (
            {"cluster": TWO | {"chief": ["localhost:2"]}, "task": {"type": "worker", "index": 0}},
            "TF_CONFIG has one of localhost:1, localhost:2 twice: each process has its own",
        ),
        ({"cluster": TWO, "task": {"type": "worker", "index": 0}}, "batch-size 25 cannot be shared out evenly to 2"),
    ],
)
def test_mistakes_in_tf_config_are_told_before_anything_is_read(text, message, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", "folder:nowhere", "--strategy", "multiworker", "--batch-size", "25"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error


def test_a_dry_run_waits_for_nobody(monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr("dvpvae_tf.train._print_costs", lambda *_: None)
    small = "--model.scales 7 --model.layers-per-scale 1 --model.channels 8 --model.encoder-blocks 1"
    main(["--dry-run", "--dataset", "mnist5k", "--strategy", "multiworker", *small.split()])
    assert "strategy: multiworker" in capsys.readouterr().out


def test_a_strategy_that_comes_too_late_is_told(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 0}}))
    tf.zeros([])
    with pytest.raises(UserError, match="before TensorFlow is used for anything else"):
        make_strategy(load_config("mnist5k", {"strategy": "multiworker"}))


def test_a_chief_that_does_not_come_is_told(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 1}}))

    def wait_in_vain():
        raise tf.errors.DeadlineExceededError(None, None, "Deadline Exceeded\n...")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", wait_in_vain)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(WorkerLost, match="the chief has not come: check the addresses in TF_CONFIG"):
        workers.connect()
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_loss_of_a_worker_gives_a_one_line_error_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_error(), workers.raise_worker_lost():
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: ...\n...")
    assert stop.value.code == LOST
    error = capsys.readouterr().err
    assert error.startswith("error: another worker has ended") and error.count("\n") == 1


# Processes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, images, save_splits):
    return save_splits(tmp_path_factory.mktemp("pictures"), images(60))


@pytest.fixture(scope="module")
def arguments(pictures):
    """The arguments of a tiny run: a clip that acts at every step, validation images that are not enough for all."""
    small = "--model.scales 4 --model.layers-per-scale 1 --model.channels 8 --model.hidden-channels 8"
    small += " --model.encoder-blocks 1 --model.pseudoinput-size 3 --model.prior-blocks 1 --model.diffusion-steps 3"
    run = f"--epochs {EPOCHS} --batch-size 12 --warmup-epochs 1 --gradient-clip-norm 0.3 --picture-every-epochs 99"
    return ["--dataset", f"folder:{pictures}", "--image-size", "8", "--name", "run", *run.split(), *small.split()]


def free_ports(count):
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in taken]


@contextlib.contextmanager
def processes(commands, folders, several=True, devices=0, reports=True):
    """Starts a worker for each folder, its output there; none outlives the test."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(len(folders))]}
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"DEVICES": str(devices), "REPORTS": str(int(reports))}
    with contextlib.ExitStack() as stack:
        started = []
        for index, (arguments, folder) in enumerate(zip(commands, folders, strict=True)):
            folder.mkdir(exist_ok=True)
            if several:
                task = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
                arguments = [*arguments, "--strategy", "multiworker"]
            output = stack.enter_context(open(folder / "output.txt", "w"))
            command = [sys.executable, "-c", COMMAND, folder / "weights.npz", *arguments, "--output", folder]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started


def run_job(commands, folders, **options):
    """Runs all workers to their end, and again while they lose one another, as a cluster's scheduler does.

    A machine that stands still for ten seconds is enough for that.
    """
    for _ in range(5):
        with processes(commands, folders, **options) as started:
            codes = [process.wait(timeout=900) for process in started]
        if set(codes) != {LOST}:
            break
    return codes, [(folder / "output.txt").read_text() for folder in folders]


def weights_of(folder):
    with np.load(folder / "weights.npz") as file:
        return [file[name] for name in file.files]


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def single(tmp_path_factory, arguments):
    """The folder of the run in one process, with all of its files."""
    folder = tmp_path_factory.mktemp("single")
    codes, outputs = run_job([arguments], [folder], several=False)
    assert codes == [0], outputs
    return folder


def assert_close(weights, expected):
    """As a whole: Adamax takes whole steps for gradients that are nothing but rounding errors."""
    one, two = (np.concatenate([np.ravel(weight) for weight in each]) for each in (weights, expected))
    assert np.linalg.norm(one - two) < 2e-3 * np.linalg.norm(two)


def check_same_training(folders, single):
    """Identical weights on all workers, and weights, curves and steps of the single process but for rounding."""
    first, *others = map(weights_of, folders)
    for other in others:
        for one, two in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, two)
    assert_close(first, weights_of(single))
    for name, length in (("metrics.csv", EPOCHS), ("gradient_norms.csv", EPOCHS * STEPS)):
        rows, expected = (read_csv(folder / "run" / name) for folder in (folders[0], single))
        assert len(rows) == length
        for row, expected_row in zip(rows, expected, strict=True):
            for key, value in expected_row.items():
                assert float(row[key]) == pytest.approx(float(value), rel=2e-3, abs=1e-6), key
    # What is trained: rounding may move the times of a calibrated process to others that cost the same.
    best = [keras.saving.load_model(folder / "run" / "best.keras") for folder in (folders[0], single)]
    assert_close(*([weight.numpy() for weight in model.trainable_variables] for model in best))


@pytest.mark.slow
def test_three_workers_train_as_one_process_does_and_the_chief_alone_writes(arguments, pictures, single, tmp_path):
    """Each in two parts, one after the other, of its share of every batch. Each worker says what it has read."""
    folders = [tmp_path / str(index) for index in range(3)]
    codes, outputs = run_job(3 * [[*arguments, "--gradient-accumulation", "2"]], folders)
    assert codes == [0, 0, 0], outputs
    check_same_training(folders, single)
    names = {path.name for path in (single / "run").rglob("*") if "tfevents" not in path.name}
    assert {path.name for path in (folders[0] / "run").rglob("*") if "tfevents" not in path.name} == names
    for folder, output in zip(folders[1:], outputs[1:], strict=True):
        assert {path.name for path in folder.iterdir()} == {"output.txt", "weights.npz"}
        assert output == f"Waiting for all 3 workers\n{pictures}: 60 pictures of 8 x 8 pixels (L 60)\n"
    assert "Test negative ELBO, T = " in outputs[0]


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_the_job_started_again_ends_as_if_nothing_had_happened(
    arguments, single, tmp_path
):
    """The second worker has nothing of its own to go on from: what it needs comes from the chief.

    The second time, both have two devices, and these take their share of a batch image by image.
    """
    folders = [tmp_path / "chief", tmp_path / "other"]
    checkpoint = folders[0] / "run" / "checkpoints" / "1.keras"
    while not checkpoint.exists():
        with processes(2 * [arguments], folders) as (chief, other):
            while not checkpoint.exists() and chief.poll() is None:
                time.sleep(0.05)
            other.terminate()
            assert other.wait(timeout=900) == -signal.SIGTERM
            assert chief.wait(timeout=900) == LOST, (folders[0] / "output.txt").read_text()
    assert "error: another worker has ended or cannot be reached" in (folders[0] / "output.txt").read_text()
    assert len(training.RunFolder(load_config(folders[0] / "run" / "config.yaml")).saved_epochs()) < EPOCHS
    in_three_parts = 2 * [[*arguments, "--gradient-accumulation", "3"]]
    codes, outputs = run_job(in_three_parts, folders, devices=2, reports=False)
    assert codes == [0, 0], outputs
    check_same_training(folders, single)


@pytest.mark.slow
def test_workers_that_cannot_train_together_end(arguments, tmp_path):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        config = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
        command = [sys.executable, "-m", "dvpvae_tf.train", *arguments, "--strategy", "multiworker"]
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 2 and f"error: cannot listen at {address}" in ended.stderr

    config["cluster"]["worker"] = [f"localhost:{port}" for port in free_ports(2)]
    with open(tmp_path / "waiting", "w") as output:
        waiting = subprocess.Popen(command, env=environment | {"TF_CONFIG": json.dumps(config)}, stdout=output)
    while "Waiting for all 2 workers" not in (tmp_path / "waiting").read_text() and waiting.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # for TensorFlow to wait, too
    waiting.send_signal(signal.SIGINT)  # Ctrl-C
    assert waiting.wait(timeout=900) == -signal.SIGINT

    codes, outputs = run_job([arguments, [*arguments, "--seed", "1"]], [tmp_path / "chief", tmp_path / "other"])
    assert codes == [LOST, 2], outputs
    assert "error: The settings or the images of this worker are not the chief's" in outputs[1]
