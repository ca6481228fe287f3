"""The folder of a run: what of it is kept, what it refuses, what survives damage, a kill and a full disk."""

import resource
import shutil

import keras
import numpy as np
import pytest

from dvpvae_tf import FusedAdamax
from dvpvae_tf.config import load_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.training.run_folder import Progress, RunFolder

LOG = "epoch,val_negative_elbo\r\n0,5.0\r\n1,nan\r\n2,3.0\r\n3,1.0\r\n"


@pytest.fixture
def make_folder(tmp_path):
    def make(**changes):
        return RunFolder(load_config("mnist5k", {"output": str(tmp_path), "name": "run"} | changes))

    return make


@pytest.fixture
def folder(make_folder):
    folder = make_folder()
    folder.checkpoints.mkdir(parents=True)
    return folder


@pytest.fixture
def model():
    """A small Keras model, its optimizer built: what a checkpoint holds does not depend on the model."""
    model = keras.Sequential([keras.Input([40]), keras.layers.Dense(9)])
    model.compile(keras.optimizers.Adamax(use_ema=True))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def splits(images):
    return np.split(images(40), [20, 30])


def state_of(model):
    return [np.array(variable) for variable in [*model.weights, *model.optimizer.variables]]


def change(model, value):
    for variable in [*model.weights, *model.optimizer.variables]:
        variable.assign(np.full(variable.shape, value, variable.dtype))


def test_the_newest_two_checkpoints_are_kept_with_the_best_epoch(folder, model):
    assert folder.restore(model) == (0, Progress())
    for epochs, progress in enumerate([Progress(5.0, 1), Progress(5.0, 1), Progress(3.25, 3)], start=1):
        change(model, epochs)
        folder.save(model, epochs, progress)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["2.json", "2.keras", "3.json", "3.keras"]
    (folder.checkpoints / "3 copy.keras").write_bytes(b"the user's own")
    expected = state_of(model)
    change(model, 9)
    assert folder.restore(model) == (3, Progress(3.25, 3))
    for one, two in zip(state_of(model), expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_best_model_that_is_missing_was_removed_or_never_there(folder, model):
    with pytest.raises(UserError, match="The validation bound was not finite after any epoch"):
        folder.check_best()
    folder.save(model, 1, Progress(5.0, 1))
    with pytest.raises(UserError, match="best.keras was removed: copy .*last.keras there"):
        folder.check_best()
    folder.best.touch()
    folder.check_best()


def test_a_damaged_checkpoint_is_told_and_left_out(folder, model, capsys):
    for epochs in (1, 2, 3):
        change(model, epochs)
        folder.save(model, epochs, Progress(1.0 / epochs, epochs))
    (folder.checkpoints / ".writing-4.keras").write_bytes(b"half")
    whole = (folder.checkpoints / "3.keras").read_bytes()
    for damaged in (b"not a checkpoint", whole[: len(whole) // 2], b""):
        (folder.checkpoints / "3.keras").write_bytes(damaged)
        assert folder.restore(model) == (2, Progress(0.5, 2))
        assert "3.keras is damaged and left out (" in capsys.readouterr().out
        assert np.all(state_of(model)[0] == 2)
    (folder.checkpoints / "2.keras").write_bytes(b"")
    with pytest.raises(UserError, match="No checkpoint in .* can be read"):
        folder.restore(model)


def test_a_state_of_another_optimizer_does_not_go_on(folder, model, capsys):
    """With zero momentum the run would not be what an uninterrupted one is."""
    folder.save(model, 1, Progress(1.0, 1))
    model.compile(FusedAdamax(use_ema=True))
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match="No checkpoint in .* can be read"):
        folder.restore(model)
    reason = "The saved state of the optimizer does not fit these weights"
    assert f"1.keras is damaged and left out ({reason})" in capsys.readouterr().out


def test_a_checkpoint_of_an_earlier_version_is_read_with_the_best_epoch_of_its_log(folder, model):
    change(model, 3)
    model.save_weights(folder.checkpoints / "3.weights.h5")
    change(model, 9)
    folder.metrics.write_text(LOG)
    assert folder.restore(model) == (3, Progress(3.0, 3))
    assert np.all(state_of(model)[0] == 3)
    folder.save(model, 4, Progress(2.0, 4))
    assert folder.saved_epochs() == [4, 3]


def test_the_logs_lose_what_came_after_the_checkpoint_and_what_is_damaged(folder, model):
    folder.save(model, 3, Progress(3.0, 3))
    folder.metrics.write_bytes(LOG.encode() + b"\r\n0\r\n\0\0\n4,0.")
    folder.gradient_norms.write_text("\n")
    assert folder.restore(model) == (3, Progress(3.0, 3))
    assert folder.metrics.read_bytes() == LOG.encode()[:-7]
    assert not folder.gradient_norms.exists()
    folder.metrics.unlink()
    assert folder.restore(model) == (3, Progress(3.0, 3))


def test_a_full_disk_leaves_the_last_checkpoint(folder, model):
    folder.save(model, 1, Progress(2.0, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*2.keras: File too large: make room and run the same"):
            folder.save(model, 2, Progress(1.0, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.checkpoints.glob(".writing*"))
    assert folder.restore(model) == (1, Progress(2.0, 1))
    folder.save(model, 2, Progress(1.0, 2))
    assert folder.saved_epochs() == [2, 1]


def test_one_process_trains_in_a_folder(make_folder, splits):
    with make_folder().open(False, splits):
        with pytest.raises(UserError, match="another process works in .*run"), make_folder().open(False, splits):
            pass
        with make_folder(name="other").open(False, splits):
            pass
    with make_folder().open(False, splits):
        pass


def test_a_run_goes_on_where_it_was_moved_with_the_same_images(make_folder, splits, tmp_path):
    with make_folder(dataset="folder:pics").open(False, splits):
        pass
    shutil.move(tmp_path / "run", tmp_path / "renamed")
    with make_folder(name="renamed", dataset="folder:/elsewhere/pics/").open(False, splits):
        pass
    other = make_folder(name="renamed", batch_size=4, seed=3)
    with pytest.raises(UserError, match=r"other settings \(batch_size, seed differ\)"), other.open(False, splits):
        pass


def test_a_run_of_an_earlier_version_kept_no_images(make_folder, splits):
    folder = make_folder(dataset="mnist5k")
    with folder.open(False, splits):
        pass
    folder.images_file.unlink()
    other = make_folder(dataset="folder:pics")
    with pytest.raises(UserError, match=r"other settings \(dataset differ\)"), other.open(False, splits):
        pass
    with folder.open(False, splits):
        assert folder.images_file.exists()


def test_a_folder_that_an_earlier_version_has_split_is_refused(make_folder, splits):
    folder = make_folder(dataset="folder:pics")
    with folder.open(False, splits):
        (folder.checkpoints / "1.weights.h5").touch()
    folder.images_file.unlink()
    with pytest.raises(UserError, match="earlier version, which split folders"), folder.open(False, splits):
        pass


def test_other_data_under_the_same_name_are_other_settings(make_folder, splits):
    with make_folder(dataset="folder:pics").open(False, splits):
        pass
    other, images = make_folder(dataset="folder:pics2"), [*splits[:2], splits[2][1:]]
    with pytest.raises(UserError, match=r"other settings \(dataset differ\)"), other.open(False, images):
        pass


def test_a_run_is_not_resumed_with_other_images(make_folder, splits):
    training, validation, test = splits
    with make_folder(dataset="folder:pics").open(False, splits):
        pass
    moved = [np.concatenate([training, test[:1]]), validation, test[1:]]
    with pytest.raises(UserError) as error, make_folder(dataset="folder:pics").open(False, moved):
        pass
    assert "folder:pics holds other images than when" in str(error.value)
    assert "(training: 21 now, 20 then, test: 9 now, 10 then): put them back" in str(error.value)
    with pytest.raises(UserError, match="training: 20 now, 20 then"):  # one pixel
        changed = training.copy()
        changed[7, 3, 3] ^= 1
        with make_folder(dataset="folder:pics").open(False, [changed, validation, test]):
            pass


def test_nothing_to_resume_and_folders_that_cannot_be_written(make_folder, splits, tmp_path):
    (tmp_path / "file").write_text("")
    for changes, resume, message in (
        ({}, True, "no checkpoint in .* to resume"),
        ({"output": str(tmp_path / "file")}, False, "Cannot write to .*another --output"),
        ({"name": 300 * "n"}, False, "Cannot write to .*File name too long"),
    ):
        with pytest.raises(UserError, match=message), make_folder(**changes).open(resume, splits):
            pass
    assert not (tmp_path / "run").exists()
