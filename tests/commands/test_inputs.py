"""What the options of a command name: the images, at the size of the model."""

import argparse

import keras
import pytest

from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.config import load_config
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.config.train_arguments import parse_train_arguments
from dvpvae_tf.data import load_dataset
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import DVPVAE


@pytest.fixture
def arguments(tmp_path, leave_run, images):
    """Options that name a run and a folder of images of 16 x 16."""
    for index, image in enumerate(images(20, side=16)):
        keras.utils.save_img(tmp_path / f"{index}.png", image, scale=False)
    return argparse.Namespace(
        model=str(leave_run()),
        dataset=f"folder:{tmp_path}",
        split=None,
        data_dir=None,
        image_size=None,
        omniglot_mat=None,
        background=None,
        skip_broken=None,
    )


def test_pictures_are_resized_to_the_model_unless_told_otherwise(arguments, tiny):
    model = tiny()
    images, files = command_inputs.read_split_of(arguments, model)
    assert images.shape == (20, 8, 8, 1) and len(files) == 20
    arguments.image_size = 16
    with pytest.raises(UserError, match="has images of 16 x 16 x 1 but the model is for 8 x 8 x 1"):
        command_inputs.read_split_of(arguments, model)


def test_pictures_are_grey_or_in_colour_as_the_model_needs_them(arguments, tiny, images, tmp_path, capsys):
    keras.utils.save_img(tmp_path / "colour.png", images(1, channels=3, side=16)[0], scale=False)
    assert command_inputs.read_split_of(arguments, tiny())[0].shape == (21, 8, 8, 1)
    assert "; converted to grey: 1; resized to 8 x 8: 21\n" in capsys.readouterr().err
    assert command_inputs.read_split_of(arguments, tiny(image_channels=3))[0].shape == (21, 8, 8, 3)
    assert "; converted to colour: 20; resized to 8 x 8: 21\n" in capsys.readouterr().err


def test_a_folder_without_splits_is_taken_whole_or_split_as_in_training(arguments, tiny, save_splits, images, tmp_path):
    assert command_inputs.split_name(arguments) == "all"
    whole = command_inputs.read_split_of(arguments, tiny())[1]
    parts = []
    for arguments.split in ("train", "validation", "test"):
        assert command_inputs.split_name(arguments) == arguments.split
        parts.append(command_inputs.read_split_of(arguments, tiny())[1])
    assert sorted(sum(parts, [])) == sorted(whole) and [*map(len, parts)] == [16, 2, 2]
    arguments.dataset, arguments.split = f"folder:{save_splits(tmp_path / 'data', images(50))}", "train"
    assert command_inputs.split_name(arguments) == "train"
    assert len(command_inputs.read_split_of(arguments, tiny())[0]) == 40
    arguments.split = None
    assert command_inputs.split_name(arguments) == "test"


@pytest.mark.parametrize(
    ("dataset", "option", "value"),
    [
        ("mnist5k", "data_dir", "there"),
        ("mnist5k", "background", "black"),
        ("mnist", "omniglot_mat", "chardata.mat"),
        ("tfds:blobs", "skip_broken", True),
        ("omniglot", "background", "black"),
        ("folder:mine", "data_dir", "there"),
    ],
)
def test_options_of_other_data_are_refused(arguments, dataset, option, value):
    arguments.dataset = dataset
    setattr(arguments, option, value)
    message = f"{dataset} takes no {option}: leave out what is for other data"
    with pytest.raises(UserError, match=message):
        command_inputs.data_settings(arguments)
    if value is not True:
        with pytest.raises(UserError, match=message):
            parse_train_arguments([f"--dataset={dataset}", f"--{option.replace('_', '-')}={value}"])
    with pytest.raises(UserError, match=message):
        load_dataset(dataset, 4, **{option: value})


def test_the_settings_of_a_config_are_those_of_its_data():
    train, _, _ = load_dataset("mnist5k", 100, **load_config("mnist5k").model_dump(include=SOURCE_SETTINGS))
    assert train.element_spec.shape == (100, 28, 28, 1)


def test_a_calibrated_process_alone_has_a_limit_of_steps(tiny, monkeypatch):
    config = tiny().get_config()
    config["prior"]["config"]["calibrated_steps"] = 3
    monkeypatch.setattr(command_inputs, "model_of", lambda _: DVPVAE.from_config(config))
    arguments = argparse.Namespace(model="new.keras", steps=500, ancestral=False)
    with pytest.raises(UserError, match="a calibrated process takes 100 steps at most, not 500"):
        command_inputs.model_with_process_of(arguments)
    model = command_inputs.model_with_process_of(arguments, ancestral=True)
    assert model.process_name == "ancestral" and model.check_steps(500) == 500


def test_a_model_of_unknown_training_says_how_to_leave_its_images_out(arguments, tiny, tmp_path, capsys):
    model = tiny()
    command_inputs.read_split_of(arguments, model)
    assert capsys.readouterr().out == ""  # the run says what it was trained on
    arguments.model = str(tmp_path / "mixture.keras")
    model.save(arguments.model)
    command_inputs.read_split_of(arguments, model)
    assert "does not say what it was trained on. If it was this folder, --split test" in capsys.readouterr().out
    arguments.split = "test"
    assert len(command_inputs.read_split_of(arguments, model)[0]) == 2
    assert capsys.readouterr().out == ""
