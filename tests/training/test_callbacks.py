"""The callbacks of a run, given the logs of its epochs: which one is the best, when to stop, what is kept."""

import math
import types

import pytest

from dvpvae_tf.errors import UserError
from dvpvae_tf.training.callbacks import FollowProgress, SaveEpoch, StopWhenNotFinite
from dvpvae_tf.training.run_folder import Progress


class Folder:
    """Notes what is saved."""

    def __init__(self, path):
        self.checkpoints = path
        self.best, self.last = path / "best.keras", path / "last.keras"
        self.saved = []

    def save(self, model, epochs, progress):
        self.saved.insert(0, epochs)

    def saved_epochs(self):
        return self.saved


@pytest.fixture
def run(tmp_path):
    """Runs epochs of two steps, each given by its validation bound and how many of its last steps are skipped."""

    def run(epochs, patience=0, done=0, progress=None):
        folder = Folder(tmp_path)
        steps = StopWhenNotFinite(folder)
        follower = FollowProgress(progress or Progress(), steps, patience)
        follower.set_model(types.SimpleNamespace(stop_training=False))
        averaged = types.SimpleNamespace(save=lambda path: path.write_text(str(epoch + 1)))
        save = SaveEpoch(folder, averaged, follower)
        for epoch, (bound, skipped) in enumerate(epochs, start=done):
            steps.on_epoch_begin(epoch)
            for step in (1, 2):
                steps.on_train_batch_end(step, {"skipped_steps": float(max(0, skipped + step - 2))})
            for callback in (follower, save):
                callback.on_epoch_end(epoch, {"val_negative_elbo": bound})
            if follower.model.stop_training:
                break
        best = int(folder.best.read_text()) if folder.best.exists() else None
        return types.SimpleNamespace(epochs=epoch + 1, best=best, saved=folder.saved, follower=follower)

    return run


def test_a_run_stops_after_its_patience_and_keeps_the_best_epoch(run):
    bounds = [(5.0, 0), (3.0, 0), (4.0, 0), (3.0, 0), (2.0, 0)]
    assert run(bounds).epochs == 5
    stopped = run(bounds, patience=2)
    assert stopped.epochs == 4 and stopped.best == 2 and stopped.follower.progress == Progress(3.0, 2)
    assert stopped.follower.is_exhausted(4) and not stopped.follower.is_exhausted(3)


def test_patience_goes_on_where_a_run_is_resumed(run):
    first = run([(3.0, 0), (4.0, 0)], patience=2)
    resumed = run([(4.0, 0), (2.0, 0)], patience=2, done=2, progress=first.follower.progress)
    assert resumed.epochs == 3 and resumed.best == 1


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_is_never_the_best(run, bound):
    result = run([(bound, 0), (5.0, 0), (bound, 0), (4.0, 0)])
    assert result.best == 4 and result.saved == [4, 2]


def test_an_epoch_that_ends_in_skipped_steps_is_neither_best_nor_kept(run):
    result = run([(5.0, 0), (0.0, 2), (0.0, 1), (4.5, 0)])
    assert result.best == 4 and result.saved == [4, 1]


def test_the_message_about_the_last_good_state_is_true(run, tmp_path):
    with pytest.raises(UserError, match=f"20 steps in a row .the state after epoch 1 is kept in {tmp_path}"):
        run([(5.0, 0), (4.0, 1), *(30 * [(0.0, 2)])])
    with pytest.raises(UserError, match="20 steps in a row .no epoch was kept"):
        run(30 * [(0.0, 2)])
