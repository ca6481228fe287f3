"""The command that writes a model for TensorFlow Serving, as its user meets it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import evaluation, export
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.config import load_config
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.errors import UserError
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.serving import saved_model
from dvpvae_tf.serving.model_card import model_card
from dvpvae_tf.training.run_folder import hash_images


@pytest.fixture(scope="module")
def run_folder(leave_run):
    return leave_run()


@pytest.fixture(autouse=True)
def data(monkeypatch, images):
    splits = LoadedDataset(tuple(images(num, seed=num) for num in (30, 20, 12)))
    monkeypatch.setattr(command_inputs, "read_dataset", lambda **_: splits)


@pytest.fixture
def quick(monkeypatch):
    """Writes an empty SavedModel in place of the true one."""

    def save(path, *_):
        tf.saved_model.save(tf.Module(), str(path))

    monkeypatch.setattr(saved_model.signatures, "save", save)


def run(folder, output, *options):
    export.main(["--model", str(folder), "--output", str(output), *map(str, options)])


def test_a_version_comes_with_its_description(exported, images):
    output, extra = exported.version.parent, exported.version / "assets.extra"
    assert [path.name for path in output.iterdir()] == ["1"]
    assert {path.name for path in extra.iterdir()} - {saved_model.WARMUP} == {
        "model_card.md", "config.yaml", "bound.json"
    }  # fmt: skip
    card = (extra / "model_card.md").read_text()
    assert card.startswith("# blobs, version 1\n") and f" {exported.model.num_parameters:,}\nparameters" in card
    assert "Prior over u: diffusion of T = 2 steps; its temperature, fixed at export, is 0.7." in card
    assert "`python -m dvpvae_tf.export --model" in card and "the process of T = 2 steps" in card
    assert (
        "| `sample` | `seed` int64 [N], `temperature` float32 [N] | `error` string [N], `images` float32 [N, 8, 8, 1]"
        in card
    )
    config = load_config(extra / "config.yaml")
    assert config.dataset == "folder:blobs" and config.data_dir is None
    assert "secret" not in (extra / "config.yaml").read_text()


def test_the_bound_is_that_of_the_first_test_images(exported, images):
    asked = exported.bound_arguments
    np.testing.assert_array_equal(asked["images"], images(12, seed=12)[:5])
    assert (asked["samples"], asked["steps"], asked["seed"]) == (4, 2, 0)
    bound = json.loads((exported.version / "assets.extra" / "bound.json").read_text())
    assert bound["nats"] == {"mean": 90.5, "standard_error": 1.25}
    card = (exported.version / "assets.extra" / "model_card.md").read_text()
    assert "Bound: 90.50 +- 1.25 nats, or 90.5000 bits per dimension, by iwae, K = 4, T = 2; negative ELBO" in card
    assert "first 5 images of folder:blobs, test" in card


def test_the_default_bound_is_quick_and_announced(quick, run_folder, tmp_path, monkeypatch, capsys):
    def iwae(model, images, samples, *_):
        assert len(images) * samples <= 1000
        raise UserError("enough")

    monkeypatch.setattr(evaluation, "iwae", iwae)
    with pytest.raises(SystemExit):
        run(run_folder, tmp_path / "blobs")
    output = capsys.readouterr().out
    assert "measuring the bound of the model card: iwae of 12 images of folder:blobs, test, 10 samples each" in output


def test_the_warm_up_requests_are_answered(exported):
    pytest.importorskip("tensorflow_serving", reason="the warm-up requests need tensorflow-serving-api")
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    answered = set()
    for record in tf.data.TFRecordDataset(str(exported.version / "assets.extra" / saved_model.WARMUP)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "blobs"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = exported.signatures[request.model_spec.signature_name](**inputs)
        assert all(len(value) == 2 for value in outputs.values())
        answered.add(request.model_spec.signature_name)
    assert answered == set(exported.signatures)


def test_versions_follow_one_another_and_are_never_replaced(quick, run_folder, tmp_path, capsys):
    output = tmp_path / "blobs"
    run(run_folder, output, "--bound-images", 0)
    assert "Bound: not measured." in (output / "1" / "assets.extra" / "model_card.md").read_text()
    assert not (output / "1" / "assets.extra" / "bound.json").exists()
    run(run_folder, output, "--bound-images", 0, "--version", 7)
    (output / ".writing-9").mkdir()
    run(run_folder, output, "--bound-images", 0)
    assert sorted(path.name for path in output.iterdir() if path.name.isdigit()) == ["1", "7", "8"]
    before = (output / "7" / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(SystemExit) as stop:
        run(run_folder, output, "--version", 7)
    assert stop.value.code == 2 and "exists: leave out --version" in capsys.readouterr().err
    assert (output / "7" / "saved_model.pb").stat().st_mtime_ns == before


def test_no_version_is_visible_before_it_is_whole(run_folder, tmp_path, monkeypatch, tiny):
    output = tmp_path / "blobs"
    seen = []

    def save(path, *_):
        tf.saved_model.save(tf.Module(), str(path))
        seen.extend(path.name for path in output.iterdir())

    monkeypatch.setattr(saved_model.signatures, "save", save)
    monkeypatch.setattr(saved_model, "has_serving_api", lambda: seen.extend(path.name for path in output.iterdir()))
    saved_model.write_version(output, 3, load_model(run_folder))
    assert seen and not any(name.isdigit() for name in seen)
    assert [path.name for path in output.iterdir()] == ["3"]

    def fail(path, *_):
        save(path)
        raise RuntimeError("killed")

    monkeypatch.setattr(saved_model.signatures, "save", fail)
    with pytest.raises(RuntimeError):
        saved_model.write_version(output, 4, load_model(run_folder))
    assert [path.name for path in output.iterdir()] == ["3"]


def test_the_card_counts_the_parameters_of_a_frozen_model(tiny):
    model = tiny()
    expected = f" {model.num_parameters:,}\nparameters for images"
    model.trainable = False
    assert expected in model_card("blobs", 1, model, {}, None, None, 3, 1.0, None)


def test_the_card_of_a_trained_model_names_its_data_and_no_folders(tiny):
    metadata = {"dataset": "mnist", "epochs": 8, "date_saved": "2026-11-26@20:32:46"}
    command = export._command_line(
        ["--model", "mnist", "--data-dir", "/somebody/data", "--output", "saved_models/mnist"]
    )
    card = model_card("mnist", 2, tiny(), {}, None, None, 3, 1.0, command, metadata)
    assert "Trained on: mnist, 8 epochs; saved 2026-11-26@20:32:46." in card
    assert "`python -m dvpvae_tf.export --model mnist --data-dir data --output saved_models/mnist`" in card
    words = ["--model=/home/me/runs/a", "--dataset", "folder:/home/me/pictures", "~/b", "tfds:a/b:1.0.0", "runs/c"]
    assert export._command_line(words).split()[3:] == [
        "--model=a",
        "--dataset",
        "folder:pictures",
        "b",
        "tfds:a/b:1.0.0",
        "runs/c",
    ]


def test_a_model_without_pseudoinputs_has_no_prior_over_u(tiny):
    model = tiny(pseudoinput="none")
    assert "* Prior over u: none.\n" in model_card("blobs", 1, model, {}, None, None, None, 1.0, None)
    with pytest.raises(UserError, match="prior_temperature is for models with pseudoinputs"):
        saved_model.write_version("blobs", 1, model, prior_temperature=0.5)


def test_a_prior_without_steps_is_exported_without_steps(quick, tiny, images, tmp_path):
    model = tiny(prior="mixture")
    model.adapt(images(4))
    version = saved_model.write_version(tmp_path / "blobs", 1, model)
    card = (version / "assets.extra" / "model_card.md").read_text()
    assert (
        "Prior over u: without diffusion steps; its" in card
        and "`negative_elbo`, the negative ELBO, from one draw" in card
    )
    with pytest.raises(ValueError, match="steps"):
        saved_model.write_version(tmp_path / "blobs", 2, model, steps=3)
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["1"]


def test_without_the_extra_it_says_that_the_first_answers_are_slow(quick, run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved_model, "has_serving_api", lambda: False)
    run(run_folder, tmp_path / "blobs", "--bound-images", 0)
    assert "the first answers will be slow" in capsys.readouterr().out
    assert not (tmp_path / "blobs" / "1" / "assets.extra" / "tf_serving_warmup_requests").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--version 0", "argument --version: 0 is not a whole number from 1 on"),
        ("--bound-images -1", "argument --bound-images: -1 is not a whole number from 0 to"),
        ("--bound-images 0 --bound-samples 50", "--bound-samples is for the bound, which --bound-images 0 leaves out"),
        ("--bound-images 0 --seed 5", "--seed is for the bound, which --bound-images 0 leaves out"),
        ("--bound-images 0 --dataset mnist", "--dataset is for the bound, which --bound-images 0 leaves out"),
        ("--model nowhere", "there is no model nowhere"),
        ("--temprature 1", "unknown option --temprature"),
    ],
)
def test_mistakes_give_a_one_line_error(quick, run_folder, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(run_folder, tmp_path / "blobs", *options.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "blobs").exists()


def test_images_that_are_not_there_are_told_with_the_way_round(quick, run_folder, tmp_path, monkeypatch, capsys):
    def read_dataset(**_):
        raise UserError("blobs are not here")

    monkeypatch.setattr(command_inputs, "read_dataset", read_dataset)
    with pytest.raises(SystemExit):
        run(run_folder, tmp_path / "blobs")
    assert (
        "blobs are not here; or leave the bound out of the model card with --bound-images 0" in capsys.readouterr().err
    )
    assert not (tmp_path / "blobs").exists()


def test_a_bound_on_images_that_were_trained_on_is_refused(quick, leave_run, images, tmp_path, capsys):
    run_folder, test = leave_run(), images(12, seed=12)
    hashes = {"training": hash_images(test[:4]), "validation": hash_images(test[:0]), "test": hash_images(test[3:])}
    np.savez(run_folder / "images.npz", **hashes)
    with pytest.raises(SystemExit):
        run(run_folder, tmp_path / "blobs")
    error = capsys.readouterr().err
    assert "was trained on 3 of the 12 test images of folder:blobs" in error and "--bound-images 0" in error
    assert not (tmp_path / "blobs").exists()


def test_a_folder_that_cannot_be_made_is_told(quick, run_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        run(run_folder, tmp_path / "file" / "blobs", "--bound-images", 0)
    assert "cannot make the folder" in capsys.readouterr().err
