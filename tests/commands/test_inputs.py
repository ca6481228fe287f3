"""What the options of a command name: the images, at the size of the model."""

import argparse

import keras
import pytest

from dvpvae_tf.command_line import inputs as command_inputs
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
        split="test",
        data_dir=None,
        image_size=None,
        omniglot_mat=None,
        background=None,
        skip_broken=None,
    )


def test_pictures_are_resized_to_the_model_unless_told_otherwise(arguments, tiny):
    model = tiny()
    assert command_inputs.read_split_of(arguments, model).shape[1:] == (8, 8, 1)
    arguments.image_size = 16
    with pytest.raises(UserError, match="has images of 16 x 16 x 1 but the model is for 8 x 8 x 1"):
        command_inputs.read_split_of(arguments, model)


def test_a_calibrated_process_alone_has_a_limit_of_steps(tiny, monkeypatch):
    config = tiny().get_config()
    config["prior"]["config"]["calibrated_steps"] = 3
    monkeypatch.setattr(command_inputs, "model_of", lambda _: DVPVAE.from_config(config))
    arguments = argparse.Namespace(model="new.keras", steps=500, ancestral=False)
    with pytest.raises(UserError, match="a calibrated process takes 100 steps at most, not 500"):
        command_inputs.model_with_process_of(arguments)
    model = command_inputs.model_with_process_of(arguments, ancestral=True)
    assert model.process_name == "ancestral" and model.check_steps(500) == 500
