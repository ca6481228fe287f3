"""The search for settings: what is drawn, how a trial is trained or fails, how a search goes on, what it leaves."""

import csv
import errno
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
import yaml
from PIL import Image

from dvpvae_tf import train, training, tune
from dvpvae_tf.config import (
    ModelConfig,
    TrainConfig,
    list_presets,
    load_config,
    search_space_file,
    settings_as_yaml,
)
from dvpvae_tf.data import pipelines
from dvpvae_tf.data.pipelines import evaluation_batches, training_batches
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import lock_folder
from dvpvae_tf.models.build import build_model
from dvpvae_tf.training.callbacks import StopWhenNotFinite
from dvpvae_tf.tuning import report, search
from dvpvae_tf.tuning.space import Space, read_space

PROJECT = Path(__file__).parents[2]
TINY_SPACE = Space(
    learning_rate={"min": 0.001, "max": 0.02},
    channels=(8, 12),
    latent_layout=({4: 1, 2: 1}, {2: 1}),
    pseudoinput=("dct", "downsample"),
    pseudoinput_size=(2, 3),
)


@pytest.fixture
def config(tiny_settings):
    settings = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "seed": 3, "model": tiny_settings}
    return load_config("mnist5k", settings)


@pytest.fixture
def batches(images):
    return training_batches(images(40), 8), evaluation_batches(images(10, seed=1), 8)


@pytest.fixture
def make_tuner(config, batches, tmp_path):
    def make(space=TINY_SPACE, **options):
        settings = {"max_trials": 4, "output": tmp_path / "search", **options}
        return search.make_tuner(batches[0], settings.pop("config", config), space, **settings)

    return make


class Killed(BaseException):
    pass


@pytest.fixture
def instead_of_training(monkeypatch):
    """Replaces the training of a trial by a function of its `TrainConfig`, which gives the score."""

    def replace(score):
        def fit(self, hp, model, train, *, epochs=None, initial_epoch=0, **kwargs):
            config = self.config_of(hp)
            calls.append((config, initial_epoch, epochs))
            model.save_weights(kwargs["callbacks"][-1].filepath)
            return {"val_bits_per_dim": score(config), "parameters": 5.0, "epochs": 2.0}

        calls = []
        monkeypatch.setattr("gc.collect", lambda: 0)  # which takes a second of each trial
        monkeypatch.setattr(search.HyperDVPVAE, "fit", fit)
        monkeypatch.setattr(
            training, "make_model", lambda *_: keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        )
        return calls

    return replace


def run(tuner, batches):
    tuner.search(batches[0], validation_data=batches[1], verbose=0)
    return tuner


def statuses(tuner):
    return [trial.status for _, trial in sorted(tuner.oracle.trials.items())]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What is searched


@pytest.mark.parametrize("preset", ["mnist5k", "omniglot", "cifar10", "mnist_ladder"])
def test_whatever_is_drawn_is_a_valid_config_with_values_from_the_space(preset):
    base, space = load_config(preset), read_space()
    hypermodel = search.HyperDVPVAE(base, space, 40)
    hp, drawn = keras_tuner.HyperParameters(), []
    hypermodel.declare_hyperparameters(hp)
    for number in range(100):
        hp.values = {each.name: each.random_sample(100 * number + i) for i, each in enumerate(hp.space)}
        config = hypermodel.config_of(hp)
        drawn.append(config)
        TrainConfig.model_validate(config.model_dump())
        model = config.model
        assert space.learning_rate.min <= config.learning_rate <= space.learning_rate.max
        assert space.ema_momentum.min <= config.ema_momentum <= space.ema_momentum.max
        assert dict(zip(model.scales, model.layers_per_scale, strict=True)) in space.latent_layout
        assert model.image_size % model.scales[0] == 0 and model.pseudoinput_size <= model.image_size
        assert model.prior_blocks in space.prior_blocks and model.pseudoinput in space.pseudoinput
        unsearched = {"epochs": config.epochs, "seed": config.seed, "weight_decay": config.weight_decay}
        assert unsearched == {key: getattr(base, key) for key in unsearched}
    assert len({config.learning_rate for config in drawn}) == 100
    assert {config.model.channels for config in drawn} == set(space.channels)


def test_what_the_space_leaves_out_keeps_its_value(config):
    hypermodel = search.HyperDVPVAE(config, Space(channels=(8, 16)), 5)
    hp = keras_tuner.HyperParameters()
    hp.values = {"channels": 16, "tuner/epochs": 1}
    model = ModelConfig(**config.model.model_dump() | {"channels": 16})
    assert hypermodel.config_of(hp) == config.model_copy(update={"model": model})


def test_layouts_and_sizes_that_do_not_fit_the_images_are_left_out(config):
    space = Space(latent_layout=({28: 1}, {4: 2, 2: 1}, {4: 1}, {2: 1, 4: 1}), pseudoinput_size=(8, 9))
    choices = search.HyperDVPVAE(config, space, 5).choices
    assert choices == {"latent_layout": ["4:2 2:1", "4:1"], "pseudoinput_size": [8]}
    with pytest.raises(UserError, match="latent_layout: none of 28:1, 3:2 fits images of side 8"):
        search.HyperDVPVAE(config, Space(latent_layout=({28: 1}, {3: 2})), 5)


def test_the_default_space_is_no_preset():
    assert search_space_file().stem not in list_presets()
    assert read_space() == read_space(search_space_file())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: {min: 1, max: 2}", "lerning_rate: unknown key .did you mean learning_rate.."),
        ("learning_rate: {min: 0.1, max: 0.01}", "learning_rate: min 0.1 must be less than max 0.01"),
        ("learning_rate: {min: 0, max: 1}", "learning_rate.min: 0 should be greater than 0"),
        ("learning_rate: {min: 0.1}", "learning_rate.max: missing: add it"),
        ("channels: [8, -8]", "channels.1: -8 should be greater than 0"),
        ("channels: []", "channels: .. should have at least 1 item"),
        ("pseudoinput: [dct, fourier]", "pseudoinput.1: 'fourier' should be 'dct', 'downsample' or 'learnable'"),
        ("latent_layout: [{4: 0}]", "latent_layout.0.4: 0 should be greater than 0"),
        ("channels: [8", "not valid YAML"),
        ("8", "should hold settings, one `key: value` on a line"),
    ],
)
def test_a_mistake_in_a_space_gives_a_one_line_error(text, message, tmp_path):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_space(tmp_path / "space.yaml")
    assert "space.yaml: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"prior_channels": (16, 17)}, "model.prior_channels: 17 should be a multiple of 16"),
        ({"learning_rate": {"min": 1e-6, "max": 0.1}}, "end_learning_rate 1e-05 exceeds learning_rate 1e-06"),
        ({"ema_momentum": {"min": 0.5, "max": 1.5}}, "ema_momentum: 1.5 should be less than 1"),
        ({}, "the search space is empty"),
    ],
)
def test_a_space_that_does_not_go_with_the_config_is_refused(space, message, make_tuner):
    with pytest.raises(UserError, match=message):
        make_tuner(Space(**space))


def test_a_strategy_of_several_machines_is_refused(make_tuner, config):
    with pytest.raises(UserError, match="here each trains trials of its own"):
        make_tuner(config=config.model_copy(update={"strategy": "multiworker"}))


def test_an_unknown_tuner_is_told(make_tuner):
    with pytest.raises(UserError, match="unknown tuner 'bayes' .did you mean bayesian..: give one of hyperband, "):
        make_tuner(tuner="bayes")


def test_images_of_another_size_and_without_end_are_refused(make_tuner, config, batches):
    with pytest.raises(UserError, match="the training data have no end"):
        search.make_tuner(batches[0].repeat(), config)
    with pytest.raises(UserError, match="images are 8 x 8 x 1 but the config is for 28 x 28 x 1"):
        make_tuner(config=load_config("mnist5k"))


# Trials


@pytest.mark.slow
def test_a_trial_is_scored_by_its_averaged_weights_and_best_yaml_trains_the_same(make_tuner, batches, config, tmp_path):
    small = config.model.model_copy(update={"scales": (4,), "layers_per_scale": (1,), "prior": "standard"})
    config = config.model_copy(update={"epochs": 6, "model": small})  # in fewer steps there is no average
    tuner = run(make_tuner(Space(learning_rate=TINY_SPACE.learning_rate), max_trials=1, config=config), batches)
    (trial,) = tuner.oracle.trials.values()
    (model,) = tuner.get_best_models()
    assert model.adapted
    bound = model.evaluate(batches[1], verbose=0, return_dict=True)
    assert bound["bits_per_dim"] == pytest.approx(trial.score, rel=1e-4)
    average = [variable.numpy() for variable in model.optimizer._model_variables_moving_average]
    for weight, expected in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(weight, expected)
    raw = keras_tuner.Tuner.load_model(tuner, trial)
    pairs = zip(raw.trainable_variables, average, strict=True)
    assert any(np.abs(weight - expected).max() > 1e-4 for weight, expected in pairs)

    best = report.write_results(tuner)
    expected = tuner.hypermodel.config_of(trial.hyperparameters)
    assert load_config(best) == expected.model_copy(update={"name": "mnist5k_tuned"})
    assert expected.epochs == 6 and expected.seed == 3
    (row,) = read_csv(tmp_path / "search" / "results.csv")
    assert float(row["val_bits_per_dim"]) == trial.score and row["status"] == "completed"
    assert int(row["parameters"]) == sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert float(row["learning_rate"]) == pytest.approx(expected.learning_rate, rel=1e-5)


def test_train_takes_best_yaml_as_it_is(tmp_path, capsys, monkeypatch):
    digits = load_config("mnist5k", {"model": {"layers_per_scale": (1, 1), "channels": 8, "hidden_channels": 8}})
    settings = {"max_trials": 1, "output": tmp_path, "space": Space(pseudoinput_size=(5,), prior_blocks=(1,))}
    images = training_batches(np.zeros([200, 28, 28, 1], "uint8"), 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            search.HyperDVPVAE, "fit", lambda *_, **__: {"val_bits_per_dim": 0.5, "parameters": 1, "epochs": 1}
        )
        tuner = search.make_tuner(images, digits, **settings)
        tuner.search(images, validation_data=images, verbose=0)
    best = report.write_results(tuner)
    capsys.readouterr()
    monkeypatch.setattr(train, "_print_costs", lambda *_: None)
    train.main(["--config", str(best), "--dry-run"])
    printed = capsys.readouterr().out
    expected = tuner.hypermodel.config_of(tuner.get_best_hyperparameters()[0])
    assert expected.model.pseudoinput_size == 5 and expected.batch_size == 50
    assert printed.startswith(settings_as_yaml(expected.model_copy(update={"name": "mnist5k_tuned"})))
    assert "16 epochs of 80 steps of 50 images" in printed


@pytest.mark.parametrize("tuner", search.TUNERS)
def test_models_over_the_budget_are_drawn_again_and_cost_no_trial(make_tuner, instead_of_training, batches, tuner):
    calls = instead_of_training(lambda config: config.learning_rate)
    sizes = {8: 5_000, 12: 9_000, 64: 90_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_count_parameters", lambda model: sizes[model.channels])
        space = Space(learning_rate={"min": 0.001, "max": 0.02}, channels=tuple(sizes))
        made = run(make_tuner(space, tuner=tuner, max_trials=5, max_parameters=10_000), batches)
    assert statuses(made) == ["COMPLETED"] * 5 and {config.model.channels for config, *_ in calls} == {8, 12}


def test_a_budget_that_no_model_keeps_is_told(make_tuner, instead_of_training, batches, monkeypatch):
    instead_of_training(lambda config: 1.0)
    monkeypatch.setattr(search, "_count_parameters", lambda model: 2)
    with pytest.raises(UserError, match="none of 1000 draws has few enough parameters: give a larger --max-param"):
        run(make_tuner(max_parameters=1), batches)


def test_parameters_are_those_that_are_trained(config):
    parameters = build_model(config.model).num_parameters
    hypermodel = search.HyperDVPVAE(config, Space(channels=(8,)), 5, max_parameters=parameters)
    assert hypermodel.fits({"channels": 8}) and not hypermodel.fits({"channels": 12})


@pytest.mark.parametrize("values", [[math.nan, math.nan], [math.inf, math.nan]])
def test_a_bound_that_is_not_finite_fails_the_trial(config, values, batches):
    history = SimpleNamespace(history={"val_bits_per_dim": values})
    model = SimpleNamespace(adapted=True, fit=lambda *_, **__: history, trainable_weights=[])
    hypermodel = search.HyperDVPVAE(config, TINY_SPACE, 5)
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="the validation bound was not finite"):
        hypermodel.fit(keras_tuner.HyperParameters(), model, batches[0], validation_data=batches[1])


def test_a_training_that_skips_one_step_after_another_fails_the_trial(config, batches):
    def fit(*_, callbacks, **__):
        (watch,) = (each for each in callbacks if isinstance(each, StopWhenNotFinite))
        watch.on_epoch_begin(0)
        for step in range(100):
            watch.on_train_batch_end(step, {"skipped_steps": step + 1.0})

    hypermodel = search.HyperDVPVAE(config, TINY_SPACE, 5)
    model = SimpleNamespace(adapted=True, fit=fit, trainable_weights=[])
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="not finite in 20 steps in a row"):
        hypermodel.fit(keras_tuner.HyperParameters(), model, batches[0], validation_data=batches[1])


def test_failed_trials_are_recorded_and_the_search_goes_on(make_tuner, instead_of_training, batches, tmp_path, capsys):
    def score(config):
        if len(calls) <= 4:
            raise ValueError("a | reason\nin two lines")
        return 0.5 + config.learning_rate

    calls = instead_of_training(score)
    tuner = run(make_tuner(max_trials=6), batches)
    assert statuses(tuner) == ["FAILED"] * 4 + ["COMPLETED"] * 2
    printed = capsys.readouterr()
    assert printed.out.count("failed: in two lines") == 4 and "Traceback" not in printed.out + printed.err
    report.write_results(tuner)
    assert [row["reason"] for row in read_csv(tmp_path / "search" / "results.csv")][2:] == ["in two lines"] * 4


def test_a_bayesian_search_does_not_propose_again_what_has_failed(make_tuner, instead_of_training, batches):
    """The best that its Gaussian process can hope for is where every trial fails."""

    def score(config):
        if config.learning_rate > 0.02:
            raise ValueError("too fast")
        return -config.learning_rate

    instead_of_training(score)
    space = {"learning_rate": {"min": 0.001, "max": 0.03}}
    tuner = run(make_tuner(Space.model_validate(space), tuner="bayesian", max_trials=8), batches)
    rates = [trial.hyperparameters.values["learning_rate"] for trial in tuner.oracle.trials.values()]
    assert statuses(tuner).count("FAILED") >= 1
    assert len({f"{rate:.3g}" for rate in rates}) >= 7


def test_a_search_of_failures_says_where_the_reasons_are(make_tuner, instead_of_training, batches, tmp_path):
    instead_of_training(lambda _: 1 / 0)
    tuner = run(make_tuner(max_trials=2), batches)
    with pytest.raises(UserError, match="no trial was completed: .*results.md says why"):
        report.write_results(tuner)
    assert (tmp_path / "search" / "results.md").read_text().count(
        "| failed | ZeroDivisionError: division by zero |"
    ) == 2


def test_hyperband_goes_on_with_its_best_and_stops_at_max_trials(make_tuner, instead_of_training, batches, config):
    calls = instead_of_training(lambda config: config.learning_rate)
    config = config.model_copy(update={"epochs": 9})
    run(make_tuner(tuner="hyperband", max_trials=11, config=config), batches)
    assert len(calls) == 11
    assert {settings.epochs for settings, _, _ in calls} == {9}  # the schedules are those of the whole run
    first, second = ([call for call in calls if call[2] == epochs] for epochs in (1, 3))
    assert len(first) == 9 and [call[1] for call in second] == [1, 1]
    assert [call[0] for call in second] == sorted((call[0] for call in first), key=lambda each: each.learning_rate)[:2]


# Searches that go on


@pytest.mark.parametrize(("tuner", "killed"), [("random", 1), ("random", 3), ("hyperband", 3), ("bayesian", 3)])
def test_a_killed_search_goes_on_with_the_trial_that_was_running(
    tuner, killed, make_tuner, instead_of_training, batches
):
    def score(config):
        if len(calls) == killed:
            raise Killed
        return config.learning_rate

    calls = instead_of_training(score)
    space = Space(learning_rate=TINY_SPACE.learning_rate)  # a Gaussian process over more dimensions is slow
    with pytest.raises(Killed):
        run(make_tuner(space, tuner=tuner), batches)
    tuner = run(make_tuner(space, tuner=tuner), batches)
    assert statuses(tuner) == ["COMPLETED"] * 4
    assert len(calls) == 5 and calls[killed][0] == calls[killed - 1][0]  # run again
    assert len({call[0].learning_rate for call in calls}) >= 2


def test_a_trial_that_was_killed_while_it_was_noted_is_drawn_again(
    make_tuner, instead_of_training, batches, monkeypatch
):
    calls = instead_of_training(lambda config: config.learning_rate)
    run(make_tuner(max_trials=2), batches)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        tuner = make_tuner()
        patch.setattr(search.RandomOracle, "save", die)  # it writes the trial first, and then that there is one
        run(tuner, batches)
    assert len(calls) == 2
    assert statuses(run(make_tuner(), batches)) == ["COMPLETED"] * 4 and len(calls) == 4


def test_a_trial_that_ended_as_its_chief_was_killed_is_not_run_again(
    make_tuner, instead_of_training, batches, tmp_path
):
    calls = instead_of_training(lambda config: config.learning_rate)
    run(make_tuner(max_trials=2), batches)
    file = tmp_path / "search" / "trials" / "oracle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ongoing_trials": {"worker0": "1"}}))
    assert statuses(run(make_tuner(max_trials=2), batches)) == ["COMPLETED"] * 2 and len(calls) == 2


def test_a_finished_search_runs_nothing_and_more_trials_may_be_asked_for(make_tuner, instead_of_training, batches):
    calls = instead_of_training(lambda config: config.learning_rate)
    whole = run(make_tuner(max_trials=2), batches)
    again = run(make_tuner(max_trials=2), batches)
    assert len(calls) == 2 and [each.score for each in again.oracle.get_best_trials(2)] == [
        each.score for each in whole.oracle.get_best_trials(2)
    ]
    run(make_tuner(max_trials=3), batches)
    assert len(calls) == 3


def test_the_same_seed_draws_the_same_trials(make_tuner, instead_of_training, batches, config, tmp_path):
    calls = instead_of_training(lambda config: config.learning_rate)
    config = config.model_copy(update={"seed": 0})
    for folder in ("first", "second"):
        run(make_tuner(max_trials=2, config=config, output=tmp_path / folder), batches)
    assert calls[:2] == calls[2:]


def test_other_settings_in_the_same_folder_are_refused(make_tuner, config, instead_of_training, batches):
    make_tuner()
    make_tuner(config=config.model_copy(update={"data_dir": "elsewhere"}))
    changes = {
        "seed": {"config": config.model_copy(update={"seed": 4})},
        "space": {"space": Space(channels=(8, 12))},
        "tuner": {"tuner": "bayesian"},
        "max_parameters": {"max_parameters": 7},
    }
    for name, change in changes.items():
        with pytest.raises(UserError, match=rf"holds a search with other settings \({name} differ\): give another"):
            make_tuner(**change)


def test_a_damaged_folder_and_one_that_cannot_be_written_are_told(make_tuner, instead_of_training, batches, tmp_path):
    instead_of_training(lambda config: 1.0)
    run(make_tuner(max_trials=1), batches)
    (tmp_path / "search" / "trials" / "oracle.json").write_text("{")
    with pytest.raises(UserError, match="search holds a damaged file"):
        make_tuner()
    (tmp_path / "file").write_text("")
    for text in ("", "a: b: c", "- a"):
        (tmp_path / "search" / "search.yaml").write_text(text)
        with pytest.raises(UserError, match="search.yaml.* give another --output, or remove its folder"):
            make_tuner()
    with pytest.raises(UserError, match="cannot write to .*file"):
        make_tuner(output=tmp_path / "file" / "folder")


def test_a_full_disk_costs_no_trial_that_was_noted(make_tuner, instead_of_training, batches, tmp_path, monkeypatch):
    instead_of_training(lambda config: config.learning_rate)
    run(make_tuner(max_trials=2), batches)
    monkeypatch.setattr(Path, "write_text", _disk_is_full)
    with pytest.raises(UserError, match="cannot write .*trial.json: No space left on device: make room and run the"):
        run(make_tuner(max_trials=3), batches)
    monkeypatch.undo()
    calls = instead_of_training(lambda config: config.learning_rate)
    assert len(run(make_tuner(max_trials=3), batches).oracle.get_best_trials(9)) == 3 and len(calls) == 1


def _disk_is_full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_epochs_without_progress_end_a_trial(config, batches):
    still = {"learning_rate": 1e-30, "end_learning_rate": 0.0, "warmup_epochs": 0}
    config = config.model_copy(update={"epochs": 5, "early_stopping_epochs": 2, **still})
    hypermodel = search.HyperDVPVAE(config, Space(pseudoinput_size=(2, 3)), 5)
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    found = hypermodel.fit(hp, hypermodel.build(hp), batches[0], validation_data=batches[1], verbose=0)
    assert found["epochs"] == 3


# What is left behind


def test_results_are_a_table_and_a_picture_with_the_best_first(make_tuner, instead_of_training, batches, tmp_path):
    instead_of_training(lambda config: 1 / config.learning_rate)
    tuner = run(make_tuner(), batches)
    report.write_results(tuner)
    folder = tmp_path / "search"
    rows = read_csv(folder / "results.csv")
    scores = [float(row["val_bits_per_dim"]) for row in rows]
    assert len(rows) == 4 and scores == sorted(scores)
    assert list(rows[0]) == [
        *("trial", "val_bits_per_dim", "parameters", "epochs"),
        *("learning_rate", "channels", "latent_layout", "pseudoinput", "pseudoinput_size", "status", "reason"),
    ]
    markdown = (folder / "results.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert yaml.safe_load((folder / "best.yaml").read_text())["learning_rate"] == pytest.approx(1 / scores[0], rel=1e-5)
    picture = np.asarray(Image.open(folder / "parallel_coordinates.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0] > 300
    assert (picture == [214, 39, 40]).all(axis=-1).sum() > 500  # the line of the best trial


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0]])
def test_one_trial_or_equal_ones_can_be_drawn(scores, make_tuner, instead_of_training, batches):
    instead_of_training(lambda config: scores[0])
    assert report.write_results(run(make_tuner(max_trials=len(scores)), batches)).exists()


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tuner", "grid"], "argument --tuner: invalid choice: 'grid'"),
        (["--max-trials", "0"], "argument --max-trials: 0 is not a whole number from 1 on"),
        (["--max-trails", "2"], "unknown option --max-trails (did you mean --max-trials?)"),
        (["--dataset", "mnist6k"], "did you mean mnist5k?"),
        (["--base", "mnist6k"], "unknown preset 'mnist6k'"),
        (["--space", "nowhere.yaml"], "nowhere.yaml: No such file or directory: give the YAML file of a search space"),
    ],
)
def test_mistakes_give_a_one_line_error(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        tune.main([*arguments, "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_are_read_as_in_training(monkeypatch, tmp_path, capsys):
    asked = {}

    def read_images(**settings):
        asked.update(settings)
        raise UserError("enough")

    monkeypatch.setattr(pipelines, "read_images", read_images)
    options = ["--dataset", "folder:pics", "--image-size", "8", "--background", "black", "--skip-broken"]
    with pytest.raises(SystemExit):
        tune.main([*options, "--output", str(tmp_path / "out")])
    assert capsys.readouterr().err == "error: enough\n"
    of_folder = {"name": "folder:pics", "image_size": 8, "background": "black", "skip_broken": True}
    assert asked == of_folder | {"data_dir": None, "omniglot_mat": None}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_epochs_and_seed_reach_the_trials(number, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(tune, "parse_train_arguments", lambda flags: asked.extend(flags) or sys.exit(7))
    epochs = number or 3
    with pytest.raises(SystemExit, match="7"):
        tune.main([f"--epochs={epochs}", f"--seed={number}", "--output", str(tmp_path / "out")])
    assert asked == [f"--epochs={epochs}", f"--seed={number}"]


def test_a_second_process_in_the_folder_is_refused(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"), pytest.raises(SystemExit) as caught:
        tune.main(command[3:])
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and error.startswith("error: another process works in ")


def test_a_chief_that_cannot_listen_says_so(command, monkeypatch, capsys):
    for name, value in zip(search.ENVIRONMENT, ("chief", "203.0.113.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        tune.main(command[3:])
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and error.startswith("error: the chief cannot listen there: ")


def test_a_worker_needs_all_three_variables(make_tuner, monkeypatch):
    make_tuner()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(UserError, match="KERASTUNER_TUNER_ID and KERASTUNER_ORACLE_PORT not set"):
        make_tuner()
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    for name, worker in (("chief", False), ("worker0", True)):
        monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
        assert search.is_worker() is worker


@pytest.fixture
def command(tmp_path, images, tiny_settings):
    """The command on a folder of small images with a small model; a list of str."""
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images(60)[..., 0]):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    model = {**tiny_settings, "prior": "standard", "scales": [4], "layers_per_scale": [1]}
    base = {"base": "mnist5k", "batch_size": 8, "epochs": 3, "model": model}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(base))
    space = "learning_rate: {min: 0.001, max: 0.02}\npseudoinput_size: [2, 3]\n"
    (tmp_path / "space.yaml").write_text(space)
    files = {"base": tmp_path / "tiny.yaml", "space": tmp_path / "space.yaml", "output": tmp_path / "out"}
    options = {"dataset": f"folder:{tmp_path / 'images'}", **files}
    return [
        sys.executable,
        "-m",
        "dvpvae_tf.tune",
        "--image-size=8",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


@pytest.mark.slow
def test_a_chief_and_two_workers_share_a_search(command, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    network = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    processes = {
        name: subprocess.Popen(
            [*command, "--max-trials=3", "--epochs=1"],
            cwd=PROJECT,
            env={**os.environ, **network, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("chief", "worker0", "worker1")
    }
    try:
        outputs = {name: process.communicate(timeout=500)[0] for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    assert [process.returncode for process in processes.values()] == [0, 0, 0], outputs
    rows = read_csv(tmp_path / "out" / "results.csv")
    assert [row["status"] for row in rows] == ["completed"] * 3
    assert all("val_bits_per_dim" in outputs[name] for name in ("worker0", "worker1"))  # both have trained
    assert "no trials are left; the chief writes the results" in outputs["worker0"]
    best = load_config(tmp_path / "out" / "best.yaml")
    assert best.learning_rate == pytest.approx(float(rows[0]["learning_rate"]), rel=1e-5)
    assert best.model.pseudoinput_size == int(rows[0]["pseudoinput_size"])


@pytest.mark.slow
def test_hyperband_continues_the_training_of_its_best_trial(command, tmp_path):
    result = subprocess.run(
        [*command, "--max-trials=4", "--tuner=hyperband"], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows = sorted(read_csv(tmp_path / "out" / "results.csv"), key=lambda row: row["trial"])
    assert [row["epochs"] for row in rows] == ["1", "1", "1", "3"]
    source = min(rows[:3], key=lambda row: float(row["val_bits_per_dim"]))
    assert rows[3]["learning_rate"] == source["learning_rate"]
    assert float(rows[3]["val_bits_per_dim"]) < float(source["val_bits_per_dim"])
    assert load_config(tmp_path / "out" / "best.yaml").epochs == 3
