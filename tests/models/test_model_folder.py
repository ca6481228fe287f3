"""Model folders: saved and loaded, with and without weights; what is damaged is refused in one line."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from dvpvae_tf import DVPVAE, load_model
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import refit
from dvpvae_tf.models.model_folder import (
    CONFIG_FILE,
    METADATA_FILE,
    WEIGHTS_FILE,
    is_model_folder_or_name,
    load_model_folder,
    model_metadata,
    save_model_folder,
    trained_models,
)
from dvpvae_tf.training.run_folder import run_config


@pytest.fixture(scope="module")
def model(tiny, images):
    model = tiny(seed=3)
    model.adapt(images(64))
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "blobs"
    save_model_folder(model, folder, dataset="folder:blobs", epochs=2)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "blobs")


def test_the_weights_come_back_bit_for_bit(model, folder):
    again = load_model_folder(folder)
    assert again.seed == 3 and again.adapted
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_methods_of_the_model_and_load_model_take_model_folders(model, folder):
    model.save_to_preset(folder, epochs=3)
    assert model_metadata(folder)["epochs"] == 3
    for again in (DVPVAE.from_preset(folder, load_weights=True), load_model(folder)):
        np.testing.assert_array_equal(again.get_weights()[-1], model.get_weights()[-1])
    assert not DVPVAE.from_preset(folder).adapted
    assert load_model(folder, "mixed_bfloat16").prior.dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(UserError, match="there is no trained model named 'omniglot'"):
        DVPVAE.from_preset("omniglot", load_weights=True)


@pytest.mark.slow
def test_another_process_has_the_same_weights_and_seeded_bound(model, folder, images):
    code = (
        "import sys, numpy as np; from dvpvae_tf.models.model_folder import load_model_folder; "
        "model = load_model_folder(sys.argv[1]); images = np.load(sys.argv[2]); "
        "print(*model(images).negative_elbo.numpy().tolist()); "
        "np.savez(sys.argv[3], *model.get_weights())"
    )
    np.save(folder / "images.npy", images(5))
    shown = subprocess.run(
        [sys.executable, "-c", code, folder, folder / "images.npy", folder / "weights.npz"],
        capture_output=True,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(
        np.array(shown.stdout.split(), "float32"), model(images(5)).negative_elbo.numpy(), rtol=1e-5
    )
    with np.load(folder / "weights.npz") as weights:
        for name, weight in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(weights[name], weight)


def test_without_weights_the_model_starts_anew(model, folder):
    again = load_model_folder(folder, load_weights=False, seed=5)
    assert again.seed == 5 and not again.adapted
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]


def test_starting_weights_come_without_what_was_fitted_to_the_trained_ones(tiny, images, tmp_path, monkeypatch):
    monkeypatch.setattr(refit, "FEWEST_DRAWS", (100, 50))
    model = tiny(scales=(4,), layers_per_scale=(1,))
    model.adapt(images(64))
    mixture = refit.with_full_mixture(model, images(60, seed=1), images(20, seed=2), verbose=0)
    mixture.save_to_preset(tmp_path / "mixture")
    with pytest.raises(UserError, match="has a mixture that was fitted to trained weights.*give load_weights=True"):
        DVPVAE.from_preset(tmp_path / "mixture")
    model.calibrate(images(60, seed=1), images(20, seed=2), steps=2, draws=100)
    model.save_to_preset(tmp_path / "calibrated")
    assert DVPVAE.from_preset(tmp_path / "calibrated").process_name == "ancestral"
    assert DVPVAE.from_preset(tmp_path / "calibrated", load_weights=True).process_name == "calibrated"


def test_arguments_that_the_model_does_not_take_are_named(folder):
    with pytest.raises(UserError, match="config.json, with seed, foo changed, describes no model of this library"):
        load_model_folder(folder, seed=1, foo=1)


def test_the_files_are_those_of_kerashub(model, folder):
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, METADATA_FILE, WEIGHTS_FILE}
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert (config["module"], config["class_name"]) == ("dvpvae_tf.models.dvpvae", "DVPVAE")
    assert config["registered_name"] == "dvpvae_tf>DVPVAE" and config["config"]["scales"] == [4, 2]
    metadata = model_metadata(folder)
    assert metadata["parameter_count"] == model.num_parameters
    assert metadata["keras_version"] == keras.__version__
    assert (metadata["dataset"], metadata["epochs"]) == ("folder:blobs", 2)


def test_the_optimizer_is_not_saved(tiny, images, tmp_path):
    compiled = tiny()
    compiled.adapt(images(64))
    save_model_folder(compiled, tmp_path / "before")
    compiled.compile("adam")
    compiled.optimizer.build(compiled.trainable_variables)
    save_model_folder(compiled, tmp_path / "after")
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("before", "after")]
    assert sizes[0] == sizes[1]


def _flip_a_byte(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def _another_shape(folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["config"]["channels"] = 16
    (folder / CONFIG_FILE).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip_a_byte, "SHA-256 differs"),
        (_another_shape, "does not fit the model in config.json"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "model.weights.h5 is missing"),
        (lambda folder: (folder / METADATA_FILE).unlink(), "metadata.json is missing"),
        (lambda folder: (folder / METADATA_FILE).write_text("{"), "no valid JSON"),
        (lambda folder: (folder / CONFIG_FILE).write_text('{"config": {}}'), "describes no model"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "there is no trained model named"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, damage, says):
    damage(folder)
    with pytest.raises(UserError, match=says) as raised:
        load_model_folder(folder)
    assert "\n" not in str(raised.value)


def test_an_unknown_name_gets_those_that_there_are():
    with pytest.raises(UserError, match=f"give one of {', '.join(trained_models())}"):
        load_model_folder("mnis")


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no model"):
        save_model_folder(model, tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "keep"


def test_a_run_with_the_name_of_a_trained_model_is_not_taken_for_it(tmp_path, monkeypatch, leave_run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("base: omniglot")  # of another run: the user works in its folder
    assert run_config("mnist") is None
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "config.yaml").write_text("base: mnist")
    assert run_config("mnist").dataset == "mnist" and not is_model_folder_or_name("mnist")
    with pytest.raises(UserError, match="there is no model mnist/best.keras"):
        load_model("mnist")


def test_the_home_folder_may_be_a_tilde(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model.save_to_preset("~/models/blobs")
    assert (tmp_path / "models" / "blobs" / CONFIG_FILE).is_file() and not (tmp_path / "~").exists()
    assert load_model("~/models/blobs").num_parameters == model.num_parameters


@pytest.mark.parametrize("name", trained_models())
def test_the_trained_models_of_the_library_load_and_sample(name):
    model = DVPVAE.from_preset(name, load_weights=True)
    assert model.adapted and model_metadata(name)["bound"]["nats"]["mean"] < 105
    assert model.sample(1, seed=0).shape == (1, *model.image_shape)
