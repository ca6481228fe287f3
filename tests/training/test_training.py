"""Training runs, as the command makes them: what they leave behind, how they resume, how they fail."""

import csv
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dvpvae_tf import evaluation, training
from dvpvae_tf.config import load_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.layers import ResBlock
from dvpvae_tf.models import DVPVAE, refit
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.priors import DiffusionPrior, FullMixturePrior
from dvpvae_tf.train import main
from dvpvae_tf.training import callbacks, loop
from dvpvae_tf.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def small_settings(tiny_settings):
    """One scale, and where it does not matter a prior without a network: what a run does does not depend on them."""
    return tiny_settings | {"scales": (4,), "layers_per_scale": (1,)}


@pytest.fixture
def make_config(tmp_path, small_settings):
    def make(prior="standard", **changes):
        settings = {
            "epochs": 3,
            "batch_size": 8,
            "warmup_epochs": 1,
            "output": str(tmp_path),
            "name": "run",
            "model": small_settings | {"prior": prior},
        }
        return load_config("mnist5k", settings | changes)

    return make


@pytest.fixture
def steps_alone(monkeypatch):
    """Runs train and validate, and neither draw nor test."""
    monkeypatch.setattr(callbacks.TensorBoardPictures, "on_epoch_end", lambda *_, **__: None)
    monkeypatch.setattr(loop, "_report", lambda *_: None)


@pytest.fixture
def splits(images):
    blobs = images(60)
    return blobs[:33], blobs[33:47], blobs[47:]


def read_metrics(folder):
    return read_csv(Path(folder) / "metrics.csv")


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Killed(BaseException):
    pass


def kill_after_epoch(epoch, monkeypatch):
    """Lets a run die at the first step after so many epochs, as a kill would; undone by monkeypatch.undo()."""
    finished = []
    monkeypatch.setattr(callbacks.StopWhenNotFinite, "on_epoch_end", lambda self, *_: finished.append(0), raising=False)

    def die(self, batch, logs=None):
        if len(finished) == epoch:
            raise Killed

    monkeypatch.setattr(callbacks.StopWhenNotFinite, "on_train_batch_end", die)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises_and_resumes_exactly(make_config, splits, tmp_path, monkeypatch):
    whole = make_config("diffusion", name="whole", picture_every_epochs=9)
    bound = training.train(whole, splits, verbose=0)
    folder = tmp_path / "whole"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock", "config.yaml", "images.npz", "metrics.csv", "gradient_norms.csv", "tensorboard", "checkpoints",
        "best.keras", "last.keras", "samples.png", "reconstructions.png", "test_bound.json",
    }  # fmt: skip
    assert json.loads((folder / "test_bound.json").read_text()) == bound
    assert load_config(folder / "config.yaml") == whole
    rows = read_metrics(folder)
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.01)
    norms = read_csv(folder / "gradient_norms.csv")
    assert [(int(row["epoch"]), int(row["step"])) for row in norms] == [(e, s) for e in range(3) for s in range(4)]
    for epoch, row in enumerate(rows):
        of_epoch = [float(norm["gradient_norm"]) for norm in norms[4 * epoch : 4 * epoch + 4]]
        assert np.mean(of_epoch) == pytest.approx(float(row["gradient_norm"]), rel=1e-5) and np.std(of_epoch) > 0

    # The saved model holds the averaged weights: those whose validation the metrics report.
    last, best = (keras.saving.load_model(folder / f"{name}.keras") for name in ("last", "best"))
    for model, expected in ((last, rows[-1]), (best, min(rows, key=lambda row: float(row["val_negative_elbo"])))):
        in_continuous_time = np.mean(model(splits[1]).negative_elbo)
        assert in_continuous_time == pytest.approx(float(expected["val_negative_elbo"]), rel=1e-5)
    # The best one is calibrated, and the bound is that of the process that it samples.
    assert (best.prior.process_name, last.prior.process_name) == ("calibrated", "ancestral")
    again = evaluation.negative_elbo(best, splits[2], 5, verbose=0)
    assert again["nats"]["mean"] == pytest.approx(bound["nats"]["mean"], rel=1e-5)
    assert (bound["process"], bound["steps"], bound["images"]) == ("calibrated", 3, len(splits[2]))
    terms = sum(bound[name]["mean"] for name in ("reconstruction", "kl_z", "kl_u"))
    assert bound["nats"]["mean"] == pytest.approx(terms, rel=1e-5)

    # TensorBoard.
    tags = EventAccumulator(str(folder / "tensorboard" / "pictures")).Reload().Tags()
    assert {"kl_z/z_1", "active_units/z_1", "active_units/all"} <= set(tags["tensors"])
    assert {"samples", "reconstructions"} <= set(tags["tensors"])

    # The same run, killed in its second epoch and started again.
    killed = make_config("diffusion", name="killed", picture_every_epochs=9)
    kill_after_epoch(1, monkeypatch)
    with pytest.raises(Killed):
        training.train(killed, splits, verbose=0)
    monkeypatch.undo()
    assert len(read_metrics(tmp_path / "killed")) == 1
    # A row whose checkpoint was never written must not stay.
    with open(tmp_path / "killed" / "metrics.csv", "a") as file:
        file.write("1" + ",0.5" * (len(rows[0]) - 1) + "\n")
    with open(tmp_path / "killed" / "gradient_norms.csv", "a") as file:
        file.write("1,0,0.5\n")
    # Nor must a checkpoint that was being written count.
    (tmp_path / "killed" / "checkpoints" / ".writing-2.keras").write_bytes(b"half")
    resumed = training.train(killed, splits, resume=True, verbose=0)
    assert read_metrics(tmp_path / "killed") == rows
    assert read_csv(tmp_path / "killed" / "gradient_norms.csv") == norms
    assert resumed["nats"] == pytest.approx(bound["nats"], rel=1e-6)  # rounding differs a little from graph to graph
    for name in ("last.keras", "best.keras"):
        pairs = (keras.saving.load_model(tmp_path / run / name).get_weights() for run in ("whole", "killed"))
        for one, two in zip(*pairs, strict=True):
            np.testing.assert_array_equal(one, two)

    # Run once more, a finished run reports again and trains no further.
    before = (folder / "checkpoints" / "3.keras").stat().st_mtime_ns
    assert training.train(whole, splits, verbose=0)["nats"] == pytest.approx(bound["nats"], rel=1e-6)
    assert (folder / "checkpoints" / "3.keras").stat().st_mtime_ns == before


def test_a_run_that_blows_up_ends_and_keeps_nothing_broken(make_config, splits, tmp_path):
    """The first step is taken and ruins the weights: all later ones are skipped."""
    config = make_config(epochs=40, learning_rate=1e25, end_learning_rate=0, picture_every_epochs=100)
    with pytest.raises(UserError, match="not finite in 20 steps in a row .no epoch was kept.: try a lower"):
        training.train(config, splits, verbose=0)
    assert not list((tmp_path / "run").rglob("*.keras"))
    assert not (tmp_path / "run" / "samples.png").exists()


def test_a_run_without_progress_stops_and_stays_stopped(make_config, splits, tmp_path, steps_alone, capsys):
    """No step changes a weight, so no epoch is better than the first; the batch is larger than the training set."""
    config = make_config(
        epochs=5, batch_size=100, early_stopping_epochs=2, learning_rate=1e-30, end_learning_rate=0, warmup_epochs=0
    )
    training.train(config, splits, verbose=0)
    assert "The batch is 33 images, not 100: there are 33 to train on" in capsys.readouterr().out
    assert load_config(tmp_path / "run" / "config.yaml").batch_size == 33
    rows = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    (tmp_path / "run" / "metrics.csv").unlink()
    training.train(config, splits, verbose=0)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.slow
def test_a_run_can_be_extended_and_another_start_from_its_weights(make_config, splits, tmp_path, steps_alone):
    training.train(make_config(epochs=1), splits, verbose=0)
    rows = read_metrics(tmp_path / "run")
    with pytest.raises(UserError, match=r"\(epochs differ\): give --resume to train on, or"):
        training.train(make_config(epochs=2), splits, verbose=0)
    training.train(make_config(epochs=2), splits, resume=True, verbose=0)
    extended = read_metrics(tmp_path / "run")
    assert len(extended) == 2 and extended[0] == rows[0]
    assert load_config(tmp_path / "run" / "config.yaml").epochs == 2
    with pytest.raises(UserError, match="epochs differ"):
        training.train(make_config(epochs=1), splits, resume=True, verbose=0)

    best = str(tmp_path / "run" / "best.keras")
    loaded = keras.saving.load_model(best)  # for use: without an optimizer
    assert not loaded.compiled
    with pytest.raises(ValueError, match="call `compile\\(\\)` before"):
        loaded.fit(splits[0], verbose=0)
    still = {"learning_rate": 1e-9, "end_learning_rate": 1e-9, "epochs": 1, "init_from": best}
    training.train(make_config(name="tuned", **still), splits, verbose=0)
    (row,) = read_metrics(tmp_path / "tuned")
    expected = min(float(each["val_negative_elbo"]) for each in extended)
    assert float(row["val_negative_elbo"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_run_may_end_with_a_full_mixture_and_report_its_bound(make_config, splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (200, 25))
    monkeypatch.setattr(callbacks.TensorBoardPictures, "on_epoch_end", lambda *_, **__: None)
    bound = training.train(make_config("full_mixture", epochs=1), splits, verbose=0)
    best, last = (load_model(tmp_path / "run" / f"{name}.keras") for name in ("best", "last"))
    assert isinstance(best.prior, FullMixturePrior) and isinstance(last.prior, DiffusionPrior)
    assert (bound["process"], bound["steps"]) == (None, None)
    assert bound["nats"]["mean"] == pytest.approx(np.mean(best(splits[2]).negative_elbo), rel=1e-5)
    assert "nats on validation images" in capsys.readouterr().out


def test_a_prior_that_cannot_be_fitted_is_told_and_the_one_before_it_stays(make_config, splits, monkeypatch, capsys):
    config = make_config("full_mixture")
    folder = RunFolder(config)
    folder.path.mkdir()
    model = training.make_model(config, 1)
    model.adapt(splits[0])
    model.save(folder.best)

    def fail(*_):
        raise UserError("No mixture could be fitted.")

    monkeypatch.setattr(loop, "with_full_mixture", fail)
    assert loop._fit_final_prior(folder, splits, None).prior.process_name == "calibrated"
    assert "No mixture could be fitted. The model keeps its diffusion prior\nCalibrating" in capsys.readouterr().out
    other = RunFolder(config.model_copy(update={"model": config.model.model_copy(update={"diffusion_steps": 2})}))
    assert loop._fit_final_prior(other, splits, None).prior.steps == load_model(folder.best).prior.steps == 2
    model.save(folder.best)
    monkeypatch.setattr(DVPVAE, "calibrate", lambda *_, **__: None)
    assert loop._fit_final_prior(folder, splits, None).prior.process_name == "ancestral"
    assert "no positive definite covariance. It keeps the ancestral process\n" in capsys.readouterr().out


def test_more_steps_than_a_calibrated_process_takes_are_told_before_the_first_step(
    make_config, small_settings, splits, tmp_path
):
    config = make_config(model=small_settings | {"prior": "diffusion", "diffusion_steps": 101})
    with pytest.raises(UserError, match="a calibrated process takes 100 steps at most, not 101"):
        training.train(config, splits)
    assert not (tmp_path / "run").exists()


def test_classes_that_cannot_be_fitted_are_told_before_the_first_step(make_config, splits, tmp_path):
    config = make_config("full_mixture", labels=True)
    classes = training.Classes([np.zeros(33, int), np.array([0, 1] * 7), np.zeros(13, int)], ("cat", "dog"))
    with pytest.raises(UserError, match=r"label 1 \(dog\) has 0 training"):
        training.train(config, splits, classes=classes)
    with pytest.raises(ValueError, match="needs the labels of the images"):
        training.train(config, splits)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_with_labels_ends_with_a_mixture_for_each_class(make_config, splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (200, 60))
    monkeypatch.setattr(callbacks.TensorBoardPictures, "on_epoch_end", lambda *_, **__: None)
    config = make_config("full_mixture", epochs=1, labels=True)
    classes = training.Classes([np.arange(len(split)) % 2 for split in splits], ("cat", "dog"))
    bound = training.train(config, splits, verbose=0, classes=classes)
    best = load_model(tmp_path / "run" / "best.keras")
    assert best.prior.labels == ["0 cat", "1 dog"]
    assert bound["nats"]["mean"] == pytest.approx(np.mean(best(splits[2]).negative_elbo), rel=1e-5)
    assert bound["of_labels"].images == len(splits[2])
    assert "label 1 dog, " in capsys.readouterr().out
    again = training.train(config, splits, resume=True, verbose=0, classes=classes)
    assert again["nats"]["mean"] == pytest.approx(bound["nats"]["mean"], rel=1e-5)  # traced anew: up to rounding
    assert again["of_labels"].nats["mean"] == pytest.approx(bound["of_labels"].nats["mean"], rel=1e-5)
    assert "label" not in capsys.readouterr().out


def test_a_run_starts_from_the_network_of_a_model_with_a_fitted_prior(make_config, images, tmp_path):
    source, blobs = training.make_model(make_config("diffusion"), 1), images(20)
    source.adapt(blobs)
    for weight in source.trainable_variables:
        weight.assign_add(tf.random.stateless_uniform(weight.shape, (0, 1)))
    mixture = FullMixturePrior(1)
    mixture.build((None, *source.pseudoinput.shape))
    mixture.set_gaussians(np.ones(1), np.zeros((1, 9)), np.eye(9)[None])
    refit.with_prior(source, mixture).save(tmp_path / "mixture.keras")
    source.calibrate(blobs, draws=20)
    source.save(tmp_path / "calibrated.keras")
    for name in ("mixture", "calibrated"):
        config = make_config("diffusion", init_from=str(tmp_path / f"{name}.keras"))
        model = training.make_model(config, 1)
        loop.initialize(model, config, blobs)
        assert model.prior.process_name == "ancestral"
        for part in ("bottom_up", "top_down", "pseudoinput", *(["prior"] if name == "calibrated" else [])):
            ours, theirs = (getattr(each, part).trainable_variables for each in (model, source))
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)


def test_weights_of_another_architecture_are_refused(make_config, splits, leave_run, tmp_path):
    config = make_config(init_from=str(leave_run()))
    with pytest.raises(UserError, match="are for a model with other settings: give those with --config, such as"):
        training.train(config, splits, verbose=0)


SMALL = "--model.scales 4 --model.layers-per-scale 1 --model.channels 8 --model.hidden-channels 8"
SMALL += " --model.pseudoinput-size 3 --model.encoder-blocks 1 --model.prior-blocks 1 --model.prior"


def test_dry_run_of_a_named_data_set_needs_no_data_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("dvpvae_tf.train._print_costs", lambda *_: None)
    options = ["--config", "mnist", "--epochs", "3", "--batch-size", "100", "--data-dir", str(tmp_path)]
    main(["--dry-run", "--output", str(tmp_path / "runs"), *options])
    printed = capsys.readouterr().out
    assert "dataset: mnist" in printed and "encoder_blocks: 3" in printed
    assert "Trainable parameters: 646,371" in printed
    assert "3 epochs of 550 steps of 100 images, 1,650 in all" in printed
    assert not list(tmp_path.iterdir())


def test_dry_run_measures_a_step_of_a_folder_smaller_than_the_batch(images, save_splits, tmp_path, capsys):
    save_splits(tmp_path, images(20))
    main(["--dry-run", "--dataset", f"folder:{tmp_path}", "--image-size", "8", *SMALL.split(), "standard"])
    printed = capsys.readouterr().out
    assert "The batch is 16 images, not 100: there are 16 to train on" in printed
    assert "300 epochs of 1 steps of 16 images" in printed
    assert re.search(r"\d+ s for the first step, [\d.e-]+ s for each other one; \d+ \w+ for all", printed)
    assert re.search(r"Peak memory: \d+\.\d GB", printed)


def test_mistakes_give_a_one_line_error_and_exit_code_2(capsys):
    for arguments in (["--epochs", "many"], ["--dataset", "mnits"], ["--nonsense"], ["--config", "none.yaml"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_the_command_trains_on_a_folder_of_pictures_in_bfloat16(images, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(images(60, channels=3)):
        keras.utils.save_img(tmp_path / "pictures" / f"{index}.png", image, scale=False)
    main(
        ["--dataset", f"folder:{tmp_path / 'pictures'}", "--image-size", "8", "--mixed-precision", "--name", "own"]
        + [
            "--epochs",
            "1",
            "--batch-size",
            "8",
            "--output",
            str(tmp_path),
            *SMALL.split(),
            "diffusion",
        ]
    )
    assert "Test negative ELBO, T = " in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "own" / "best.keras")
    assert model.dtype_policy.name == "mixed_bfloat16" and model.image_shape == (8, 8, 3)
    assert (tmp_path / "own" / "samples.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["omniglot", "cifar10"])
def test_the_command_trains_on_real_data(dataset, shared, tmp_path, capsys):
    """A narrow model, one pass: the bound must come out far below that of the starting weights."""
    narrow = "--validate-raw-weights --model.channels 8 --model.hidden-channels 8 --model.encoder-blocks 1 "
    narrow += "--model.prior-blocks 1 --model.layers-per-scale"
    narrow += " 1,1" if dataset == "omniglot" else " 1,1,1,1"
    mat = f"--omniglot-mat {shared}/data/omniglot_subset/chardata.mat"
    place = mat if dataset == "omniglot" else f"--data-dir {shared}/data/tfds"
    main(f"--dataset {dataset} --epochs 1 --batch-size 50 --name run --output {tmp_path} {place} {narrow}".split())
    assert "Test negative ELBO, T = " in capsys.readouterr().out
    bits_per_dim = float(read_metrics(tmp_path / "run")[0]["val_bits_per_dim"])
    assert 0.1 < bits_per_dim < (1.0 if dataset == "omniglot" else 8.0)


@pytest.mark.slow
def test_the_command_trains_with_xla(images, save_splits, tmp_path, steps_alone):
    """`test_xla_computes_the_same_step` compares a step; here all of a run works with it."""
    options = f"--jit-compile --image-size 8 --epochs 1 --batch-size 8 --output {tmp_path} --name run {SMALL} standard"
    main(["--dataset", f"folder:{save_splits(tmp_path / 'pictures', images(40))}", *options.split()])
    [metrics] = read_metrics(tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").jit_compile
    assert np.isfinite(float(metrics["val_negative_elbo"])) and float(metrics["skipped_steps"]) == 0


@pytest.mark.slow
def test_what_saves_memory_changes_no_step(make_config, splits, tmp_path, steps_alone):
    """A clip that acts at every step, where the gradient of a part is not that of the batch."""
    options = [{}, {"gradient_accumulation": 4}, {"remat": True}]
    for number, each in enumerate(options):
        training.train(
            make_config("diffusion", name=str(number), epochs=2, gradient_clip_norm=0.3, **each), splits, verbose=0
        )
    plain, *others = (read_metrics(tmp_path / str(number)) for number in range(len(options)))
    assert all(float(row["gradient_norm"]) > 0.3 for row in plain)
    for metrics in others:
        for expected, row in zip(plain, metrics, strict=True):
            assert {name: float(value) for name, value in row.items()} == pytest.approx(
                {name: float(value) for name, value in expected.items()}, rel=1e-3, abs=1e-6
            )


def test_a_batch_that_has_no_equal_parts_for_all_devices_is_told(make_config, splits, tmp_path):
    config = make_config(name="run", batch_size=12, gradient_accumulation=3)
    with pytest.raises(UserError, match="batch-size 12 has no 3 equal parts on each of 8 devices"):
        training.train(config, splits, strategy=types.SimpleNamespace(num_replicas_in_sync=8))
    assert not (tmp_path / "run").exists()


def test_each_residual_block_is_computed_again_with_remat(make_config, images):
    convolutions = {}
    for remat in (False, True):
        model = training.make_model(make_config(remat=remat), steps_per_epoch=1)
        model.adapt(images(8))
        step = tf.function(model.train_step, autograph=False)  # as Keras compiles it
        graph = step.get_concrete_function(tf.TensorSpec([8, 8, 8, 1], tf.uint8)).graph
        convolutions[remat] = sum(operation.type == "Conv2D" for operation in graph.get_operations())
    blocks = sum(isinstance(layer, ResBlock) for layer in model._flatten_layers())
    assert convolutions[True] >= convolutions[False] + 4 * blocks


MIRRORED = """
import json, os, sys
import numpy as np
import tensorflow as tf
devices, settings, ends = json.loads(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
from dvpvae_tf import DVPVAE
from dvpvae_tf.config import load_config
from dvpvae_tf.training import callbacks, loop

call, make_model, save, models = DVPVAE.call, loop.make_model, callbacks.SaveEpoch.on_epoch_end, []

def not_finite_for_white_images(self, images, seeds=None, training=False):
    elbo = call(self, images, seeds=seeds, training=training)
    white = tf.reduce_all(images == 255, axis=[1, 2, 3])
    return elbo._replace(reconstruction=tf.where(white, np.nan, elbo.reconstruction))

def check_copies():
    model = models[-1]
    for variable in [*model.weights, *model.optimizer.variables]:
        values = model.distribute_strategy.experimental_local_results(variable.value)
        assert len(values) == devices and all(np.array_equal(values[0], value) for value in values), variable.path

def save_and_die(self, epoch, logs=None):
    save(self, epoch, logs)
    if ends == "killed":
        check_copies()
        os._exit(3)

DVPVAE.call, callbacks.SaveEpoch.on_epoch_end = not_finite_for_white_images, save_and_die
loop.make_model = lambda *arguments: models.append(make_model(*arguments)) or models[-1]
if ends == "trained":
    callbacks.TensorBoardPictures.on_epoch_end = loop._report = lambda *_: None
images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1)).astype("uint8")
images[7] = 255
loop.train(load_config("mnist5k", settings), (images[:40], images[40:51], images[51:]), verbose=0)
check_copies()
"""


@pytest.mark.slow
def test_two_and_four_devices_train_as_one_does(tmp_path, small_settings):
    """Same global batch, a clip that acts at every step, an uneven validation set: the same curve and averaged weights.

    In each epoch the loss of one image is not finite: all devices skip that step. The run on two devices is killed
    after its first epoch and goes on from its checkpoint on four, which also draw and report.
    """
    for devices, strategy, ends, code in (
        (1, "single", "trained", 0), (2, "mirrored", "killed", 3), (4, "mirrored", "whole", 0)
    ):  # fmt: skip
        settings = {
            "epochs": 2, "batch_size": 8, "gradient_clip_norm": 0.3, "strategy": strategy, "name": strategy,
            "output": str(tmp_path), "picture_every_epochs": 100, "model": small_settings,
        }  # fmt: skip
        command = [sys.executable, "-c", MIRRORED, json.dumps([devices, settings, ends])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert result.returncode == code, result.stderr
        assert len(read_metrics(tmp_path / strategy)) == (1 if ends == "killed" else 2)
    one, several = (read_metrics(tmp_path / strategy) for strategy in ("single", "mirrored"))
    for expected, row in zip(one, several, strict=True):
        assert float(expected["gradient_norm"]) > 0.3 and float(expected["skipped_steps"]) == 1
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(float(value), rel=2e-3, abs=1e-6), name
    models = (keras.saving.load_model(tmp_path / strategy / "last.keras") for strategy in ("single", "mirrored"))
    expected, averaged = (np.concatenate([np.ravel(array) for array in model.get_weights()]) for model in models)
    assert np.linalg.norm(averaged - expected) < 2e-3 * np.linalg.norm(expected)
