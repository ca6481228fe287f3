"""The settings: presets against Table 7, files, command line, formulae and every error line."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from dvpvae_tf import config as config_module
from dvpvae_tf.config import (
    ModelConfig,
    StrictSettings,
    TrainConfig,
    default_model,
    ema_momentum_for,
    find_preset,
    learning_rate_at,
    list_presets,
    load_config,
    validate,
    write_config,
)
from dvpvae_tf.config.datasets import options_of
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.config.train_arguments import parse_train_arguments
from dvpvae_tf.errors import UserError

PRESETS = [
    *("cifar10", "cifar10_depth20", "cifar10_depth28", "cifar10_depth36", "cifar10_depth44", "cifar10_vamp"),
    *(
        "cifar10_vdvae",
        "images64",
        "mnist",
        "mnist5k",
        "mnist_ladder",
        "mnist_plus",
        "mnist_vamp",
        "omniglot",
        "omniglot_ladder",
    ),
]
GREY, COLOUR = (28, 28, 1), (32, 32, 3)

# Table 7 as printed: key, MNIST, OMNIGLOT, CIFAR10.
TABLE_7 = [
    ("epochs", 300, 500, 3000),
    ("batch_size", 250, 250, 128),
    ("learning_rate", 1e-2, 1e-2, 3e-3),
    ("end_learning_rate", 1e-5, 1e-4, 1e-4),
    ("warmup_epochs", 2, 2, 5),
    ("weight_decay", 1e-6, 1e-6, 1e-6),
    ("ema_momentum", 0.999, 0.999, 0.999),
    ("gradient_clip_norm", 5, 2, 150),
    ("model.scales", (14, 7), (14, 7), (32, 16, 8, 4)),
    ("model.layers_per_scale", (4, 4), (4, 4), (10, 8, 6, 4)),
    ("model.latent_channels", 1, 1, 3),
    ("model.image_channels", 1, 1, 3),
    ("model.pseudoinput_size", 7, 5, 7),
    ("model.encoder_blocks", 3, 3, 4),
    ("model.channels", 32, 80, 128),
    ("model.hidden_channels", 32, 40, 96),
    ("model.likelihood", "bernoulli", "bernoulli", "discretized_logistic_mixture"),
    ("model.diffusion_steps", None, None, None),
    ("model.gamma_min", -6, -6, -10),
    ("model.gamma_max", 7, 7, 7),
]
# Where the table is silent, or the released code decides (OMNIGLOT's prior; Table 7 says 16 and 2).
RELEASED = [
    ("model.prior_channels", 16, 32, 32),
    ("model.prior_blocks", 2, 3, 3),
    ("model.prior_dropout", 0, 0.05, 0),
    ("model.image_size", 28, 28, 32),
    ("model.mixtures", 10, 10, 10),
    ("model.input_mean", 127.5, 127.5, 120.63838),
    ("model.input_std", 127.5, 127.5, 64.16736),
    ("model.pseudoinput", "dct", "dct", "dct"),
    ("model.prior", "diffusion", "diffusion", "diffusion"),
    ("model.pseudoinput_log_var_min", -12, -12, -12),
    ("model.pseudoinput_log_var_max", 2, 2, 2),
    ("horizontal_flip", False, False, True),
    ("early_stopping_epochs", 0, 0, 0),
]


def setting(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def resolved(*argv, shape=GREY):
    return parse_train_arguments(argv).resolve(shape)


def message(call, *arguments):
    """The single line of the UserError that the call raises."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


# Presets


@pytest.mark.parametrize("row", TABLE_7 + RELEASED, ids=lambda row: row[0])
def test_presets_are_table_7(row):
    key, *values = row
    assert [setting(load_config(name), key) for name in ("mnist", "omniglot", "cifar10")] == values


def test_numbers_of_layers_are_table_7s():
    layers = [sum(load_config(name).model.layers_per_scale) for name in ("mnist", "omniglot", "cifar10")]
    assert layers == [8, 8, 28]


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_ladder_differs_by_the_pseudoinput_alone(name):
    plain, ladder = load_config(name), load_config(f"{name}_ladder")
    assert ladder.model.pseudoinput == "none"
    assert ladder.model.model_copy(update={"pseudoinput": "dct"}) == plain.model
    assert ladder.model_copy(update={"model": plain.model, "name": name}) == plain


def test_small_preset_is_a_difference_from_mnist():
    small, mnist = load_config("mnist5k"), load_config("mnist")
    assert (small.dataset, small.batch_size) == ("mnist5k", 100)
    assert small.epochs < 30 and small.model.encoder_blocks < mnist.model.encoder_blocks
    assert small.model.pseudoinput == "dct" and small.model.prior == "full_mixture"


def test_presets_are_listed_and_found():
    assert list_presets() == PRESETS
    for name in PRESETS:
        assert find_preset(name).name == f"{name}.yaml"
        assert load_config(name).name == name


def test_model_defaults_are_the_mnist_model():
    assert ModelConfig() == load_config("mnist").model


# Files


def test_file_holds_differences_from_its_base(write):
    write("base: omniglot\nname: first\nepochs: 7\nmodel: {channels: 16, scales: [7]}\n", "first.yaml")
    second = write("base: first.yaml\nmodel:\n  layers_per_scale: [2]\n  hidden_channels: 8\n", "second.yml")
    config = load_config(second)
    model = config.model
    assert (config.epochs, config.dataset, config.gradient_clip_norm) == (7, "omniglot", 2)
    assert (model.channels, model.hidden_channels, model.pseudoinput_size) == (16, 8, 5)
    assert (model.scales, model.layers_per_scale) == ((7,), (2,)), "lists are replaced, not joined"
    assert config.name == "second", "the name of a run is not passed on"


def test_exponents_without_a_point_and_null_are_read(write):
    config = load_config(write("base: mnist\nlearning_rate: 1e-3\nmodel: {pseudoinput: null}\n"))
    assert config.learning_rate == 0.001 and config.model.pseudoinput == "none"
    assert load_config(write("base: mnist\nmodel: {pseudoinput: none}\n")).model.pseudoinput == "none"


@pytest.mark.parametrize("name", PRESETS)
def test_written_config_reads_back_equal(name, tmp_path):
    changes = {"data_dir": "/dätä/a b: c", "seed": 3, "learning_rate": 0.123456789012345, "name": "a run"}
    config = load_config(name, changes)
    path = tmp_path / "config.yaml"
    write_config(config, path)
    assert load_config(path) == config
    shape = config.model.image_size, config.model.image_size, config.model.image_channels
    assert resolved("--config", str(path), shape=shape) == config


def test_written_config_is_plain_and_in_order(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(load_config("mnist_ladder"), path)
    text = path.read_text()
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert keys == list(TrainConfig.model_fields)
    assert "  scales: [14, 7]\n" in text and "  pseudoinput: none\n" in text and "!!" not in text


def test_overrides_win_over_the_file():
    config = load_config("mnist", {"epochs": 5, "model": {"channels": 64}})
    assert (config.epochs, config.model.channels, config.model.hidden_channels) == (5, 64, 32)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config("mnist").epochs = 3


# Installation


def installed(folder, configs):
    """A copy of the config module, with the presets at the place given, in a package without TensorFlow."""
    package = folder / "dvpvae_tf"
    package.mkdir()
    (package / "__init__.py").touch()
    installed_from = Path(config_module.__file__).parents[1]
    shutil.copy(installed_from / "errors.py", package)
    shutil.copytree(installed_from / "config", package / "config")
    if configs:
        shutil.copytree(find_preset("mnist").parent, folder / configs)


def run_installed(folder, code):
    blocked = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'tensorflow_probability'])); "
    code = f"{blocked} sys.path.insert(0, {str(folder)!r}); from dvpvae_tf.config import *; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(folder).parent)


@pytest.mark.parametrize("configs", ["dvpvae_tf/configs", "configs"])
def test_presets_are_found_where_installed_and_without_tensorflow(tmp_path, configs):
    installed(tmp_path, configs)
    result = run_installed(tmp_path, "print(list_presets(), find_preset('mnist'), load_config('cifar10').epochs)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{PRESETS} {tmp_path / configs / 'mnist.yaml'} 3000"


def test_presets_inside_the_package_come_first(tmp_path):
    installed(tmp_path, "dvpvae_tf/configs")
    (tmp_path / "configs").mkdir()
    assert run_installed(tmp_path, "print(len(list_presets()))").stdout.strip() == str(len(PRESETS))


def test_missing_presets_are_told(tmp_path):
    installed(tmp_path, None)
    last_line = run_installed(tmp_path, "list_presets()").stderr.strip().splitlines()[-1]
    assert last_line.endswith("install the package again")


# Command line


def test_no_argument_is_the_small_preset():
    arguments = parse_train_arguments([])
    assert (arguments.settings.dataset, arguments.options.dry_run, arguments.options.resume) == (
        "mnist5k",
        False,
        False,
    )
    assert arguments.resolve(GREY) == load_config("mnist5k")


@pytest.mark.parametrize("name, shape", [("mnist", GREY), ("omniglot", GREY), ("cifar10", COLOUR)])
def test_data_set_chooses_its_preset(name, shape):
    assert resolved("--dataset", name, shape=shape) == load_config(name)


@pytest.mark.parametrize(
    "argv, key, value",
    [
        ("--epochs 3", "epochs", 3),
        ("--epochs=3", "epochs", 3),
        ("--learning-rate 2e-3", "learning_rate", 0.002),
        ("--data-dir /data", "data_dir", "/data"),
        ("--output=~/runs", "output", str(Path.home() / "runs")),
        ("--init-from=~/model.keras", "init_from", str(Path.home() / "model.keras")),
        ("--data-dir 7", "data_dir", "7"),
        ("--mixed-precision", "mixed_precision", True),
        ("--mixed-precision --no-mixed-precision", "mixed_precision", False),
        ("--strategy mirrored", "strategy", "mirrored"),
        ("--strategy multiworker", "strategy", "multiworker"),
        ("--name tried", "name", "tried"),
        ("--model.channels 64", "model.channels", 64),
        ("--model.channels 64 --model.channels 48", "model.channels", 48),
        ("--model.likelihood-input last_latent", "model.likelihood_input", "last_latent"),
        ("--model.scales 28,4 --model.pseudoinput-size 3", "model.scales", (28, 4)),
        ("--model.scales [7,1]", "model.scales", (7, 1)),
        ("--model.scales 28 --model.scales 14", "model.scales", (28, 14)),
        ("--model.gamma-min -8.5", "model.gamma_min", -8.5),
        ("--model.gamma-min -8", "model.gamma_min", -8.0),
        ("--model.pseudoinput none", "model.pseudoinput", "none"),
        ("--model.pseudoinput null", "model.pseudoinput", "none"),
    ],
)
def test_overrides_of_every_kind(argv, key, value):
    config = resolved("--config", "mnist", *argv.split())
    assert setting(config, key) == value and type(setting(config, key)) is type(value)
    changed = config.model_dump() | {key.split(".")[0]: None}
    assert changed == load_config("mnist").model_dump() | {key.split(".")[0]: None}, "nothing else changes"


def test_every_setting_can_be_given():
    config = load_config("omniglot")
    argv = []
    for key in [*TrainConfig.model_fields, *(f"model.{name}" for name in ModelConfig.model_fields)]:
        of_other_data = key in SOURCE_SETTINGS - options_of("omniglot")
        value = None if key == "model" or of_other_data else setting(config, key)
        if isinstance(value, bool):
            argv.append(f"--{'' if value else 'no-'}{key.replace('_', '-')}")
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            argv.append(f"--{key.replace('_', '-')}={text}")
    assert resolved("--config", "mnist_ladder", *argv) == config


def test_command_line_wins_over_file_and_file_over_base(write):
    path = write("base: mnist\nepochs: 20\nbatch_size: 50\nseed: 4\n")
    arguments = parse_train_arguments(["--config", str(path), "--batch-size", "10", "--resume", "--dry-run"])
    assert (arguments.settings.batch_size, arguments.settings.seed) == (10, 4)
    assert arguments.options.resume and arguments.options.dry_run
    config = arguments.resolve(GREY)
    assert (config.epochs, config.batch_size, config.seed, config.warmup_epochs) == (20, 10, 4, 2)
    assert config.name == "mine"
    assert not {"resume", "dry_run", "config"} & set(config.model_dump())


def test_the_settings_are_checked_once(monkeypatch):
    checked, check = [], TrainConfig.model_validate.__func__
    count = classmethod(lambda kind, values: checked.append(values) or check(kind, values))
    monkeypatch.setattr(TrainConfig, "model_validate", count)
    assert resolved("--model.channels", "48").model.channels == 48
    assert len(checked) == 1


@pytest.fixture
def run_folder(tmp_path):
    """A run of settings that no preset has."""
    config = load_config("omniglot", {"name": "mine", "output": str(tmp_path), "epochs": 7, "seed": 5})
    (tmp_path / "mine").mkdir()
    write_config(config, tmp_path / "mine" / "config.yaml")
    return config


def test_a_resumed_run_needs_its_name_alone(run_folder):
    place = ["--output", run_folder.output, "--name", "mine"]
    assert resolved("--resume", *place) == run_folder
    longer = resolved("--resume", *place, "--epochs", "9", "--model.channels", "16")
    assert (longer.epochs, longer.seed, longer.model.channels, longer.dataset) == (9, 5, 16, "omniglot")
    assert resolved(*place).dataset == "mnist5k", "without --resume the folder is not read"
    assert resolved("--resume", "--config", "mnist", *place).dataset == "mnist", "a config that is given wins"


def test_a_resumed_run_is_found_below_the_home(run_folder, monkeypatch):
    monkeypatch.setenv("HOME", run_folder.output)
    assert resolved("--resume", "--output=~", "--name", "mine").epochs == run_folder.epochs


def test_a_resumed_run_may_have_moved(run_folder, tmp_path):
    (tmp_path / "mine").rename(tmp_path / "yours")
    config = resolved("--resume", "--output", str(tmp_path), "--name", "yours")
    assert config == run_folder.model_copy(update={"name": "yours"})


def test_resuming_without_a_run_takes_the_preset(tmp_path):
    assert resolved("--resume", "--output", str(tmp_path), "--dataset", "omniglot").epochs == 500


@pytest.mark.parametrize("side", [64, 128, 192])
def test_the_preset_of_larger_images_takes_every_side_that_64_divides(side):
    argv = ["--config", "images64", "--dataset", "folder:photos", "--image-size", str(side)]
    config = resolved(*argv, shape=(side, side, 3))
    assert (config.dataset, config.name, config.image_size) == ("folder:photos", "images64", side)
    expected = load_config("images64").model.model_copy(update={"image_size": side})
    assert config.model == expected and expected.scales[0] == 64


def test_the_preset_of_larger_images_names_the_scales_that_do_not_fit():
    argv = ["--config", "images64", "--dataset", "folder:photos", "--image-size", "96"]
    with pytest.raises(UserError, match=r"scales \[64, 32, 16, 8, 4\] do not fit image_size 96"):
        resolved(*argv, shape=(96, 96, 3))
    assert resolved(*argv, "--model.scales", "48,24,12,6,3", shape=(96, 96, 3)).model.scales[0] == 48


def test_config_with_another_data_set():
    config = resolved("--config", "mnist", "--dataset", "omniglot")
    assert (config.dataset, config.epochs, config.model.channels) == ("omniglot", 300, 32)


@pytest.mark.parametrize("shape, preset", [((64, 64, 1), "mnist"), ((48, 48, 3), "cifar10")])
def test_other_data_sets_get_the_training_of_the_nearest_preset(shape, preset):
    argv = [
        "--dataset",
        "folder:/my/cats & dogs",
        "--image-size",
        "64",
        "--epochs",
        "9",
        "--model.channels",
        "24",
    ]
    arguments = parse_train_arguments(argv)
    data = arguments.settings
    assert (data.dataset, data.image_size, data.batch_size) == (argv[1], 64, 100)
    config, published = arguments.resolve(shape), load_config(preset)
    assert (config.epochs, config.batch_size, config.name) == (9, 100, "folder_my_cats_dogs")
    assert config.learning_rate == published.learning_rate
    assert config.gradient_clip_norm == published.gradient_clip_norm
    assert config.horizontal_flip is False, "pictures of an unknown kind are not mirrored"
    assert config.model == default_model(shape[0], shape[2]).model_copy(update={"channels": 24})


def test_other_data_set_with_a_config_keeps_its_model():
    config = resolved("--config", "mnist", "--dataset", "tfds:x", "--model.scales", "32,16", shape=(64, 64, 1))
    assert config.model.scales == (32, 16) and config.model.image_size == 64
    assert config.batch_size == 250 and config.model.channels == 32


def test_a_run_on_other_data_may_have_labels():
    config = resolved(*["--dataset", "folder:x", "--labels", "--model.prior", "full_mixture"], shape=COLOUR)
    assert config.labels and config.model.prior == "full_mixture" and config.model.image_size == 32
    assert not resolved("--dataset", "folder:x", shape=COLOUR).labels


def test_run_on_other_data_can_be_repeated_from_its_config(tmp_path):
    config = resolved("--dataset", "tfds:svhn_cropped", shape=COLOUR)
    write_config(config, tmp_path / "config.yaml")
    assert resolved("--config", str(tmp_path / "config.yaml"), shape=COLOUR) == config


def test_help_shows_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train_arguments(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for key in [*TrainConfig.model_fields, "config", "dry_run", "resume"]:
        assert f"--{key.replace('_', '-')}" in text
    for key, field in ModelConfig.model_fields.items():
        assert f"--model.{key.replace('_', '-')}" in text and field.description.split(" ")[0] in text
    one_line = " ".join(text.split())
    assert "--model.encoder-blocks int" in one_line and "(N_enc). (default: 1)" in one_line
    assert "--strategy {single,mirrored,multiworker}" in one_line and "(default: null)" not in one_line
    assert all(name in one_line for name in PRESETS)
    assert len(text.splitlines()) < 110 and max(map(len, text.splitlines())) <= 110


# Mistakes


@pytest.mark.parametrize(
    "text, expected",
    [
        ("base: mnist\nepoch: 3", "mine.yaml: epoch: unknown key (did you mean epochs?)"),
        ("base: mnist\nmodel: {chanels: 3}", "model.chanels: unknown key (did you mean channels?)"),
        ("base: mnist\nqqqq: 3", "qqqq: unknown key (the keys are dataset, data_dir, "),
        ("base: mnist\n1: 3", "1: "),
        ("base: mnist\nepochs: many", "epochs: 'many' should be a valid integer"),
        ("base: mnist\nepochs: 1.5", "epochs: 1.5 should be a valid integer"),
        ("base: mnist\nbatch_size: 0", "batch_size: 0 should be greater than 0"),
        ("base: mnist\nlearning_rate: .nan", "learning_rate: nan should be a finite number"),
        ("base: mnist\nema_momentum: 1", "ema_momentum: 1 should be less than 1"),
        ("base: mnist\nstrategy: both", "strategy: 'both' should be 'single', 'mirrored' or 'multiworker'"),
        ("base: mnist\ngradient_accumulation: 3", "batch_size 250 cannot be split into 3 equal parts"),
        ("base: mnist\njit_compile: true\nstrategy: mirrored", "jit_compile is for one device"),
        ("base: mnist\nmixed_precision: maybe", "mixed_precision: 'maybe' should be a valid boolean"),
        ("base: mnist\nmodel: 3", "model: 3 should be a valid dictionary"),
        ("base: mnist\nmodel: {scales: 14}", "model.scales: 14 should be a valid list"),
        ("base: mnist\nmodel: {scales: []}", "model.scales: [] should have at least 1 item"),
        ("base: mnist\nmodel: {scales: [14, x]}", "model.scales.1: 'x' should be a valid integer"),
        ("base: mnist\nmodel: {scales: [14]}", "scales [14] and layers_per_scale [4, 4] differ in length"),
        ("base: mnist\nmodel: {scales: [14, 6]}", "scales [14, 6] do not fit image_size 28"),
        ("base: mnist\nmodel: {scales: [14, 14]}", "scales [14, 14] do not fit image_size 28"),
        ("base: mnist\nmodel: {scales: [7, 14]}", "scales [7, 14] do not fit image_size 28"),
        ("base: mnist\nmodel: {image_size: 30}", "scales [14, 7] do not fit image_size 30"),
        ("base: mnist\nmodel: {prior_channels: 24}", "model.prior_channels: 24 should be a multiple of 16"),
        ("base: mnist\nmodel: {pseudoinput_size: 29}", "pseudoinput_size 29 exceeds image_size 28"),
        (
            "base: mnist\nmodel: {pseudoinput: fft}",
            "'fft' should be 'dct', 'downsample', 'learnable' or 'none'",
        ),
        ("base: mnist\nmodel: {gamma_min: 7}", "gamma_min 7.0 must be less than gamma_max 7.0"),
        (
            "base: mnist\nmodel: {pseudoinput_log_var_max: -20}",
            "pseudoinput_log_var_min -12.0 must be less than",
        ),
        ("base: cifar10\nmodel: {encoder_input: binary}", "encoder_input binary needs likelihood bernoulli"),
        ("base: cifar10\nmodel: {image_channels: 2}", "needs image_channels 1 or 3, not 2"),
        ("base: mnist\nend_learning_rate: 1", "end_learning_rate 1.0 exceeds learning_rate 0.01"),
        ("base: mnist\ndataset: minst", "unknown data set minst (did you mean mnist?): give one of mnist5k"),
        ("base: mnist\ndataset: 'folder:'", "unknown data set folder:"),
        ("base: mnist\nimage_size: 32", "image_size is 32, but images of mnist have side 28"),
        ("dataset: mnist", "epochs: missing: add it, or start from a preset"),
        ("base: minst", "mine.yaml: base: unknown preset 'minst' (did you mean mnist?): give one of cifar10"),
        ("base: mine.yaml", "is its own base: remove one `base`"),
        ("base: none.yaml", "none.yaml: No such file or directory"),
        ("epochs: [1", "mine.yaml: not valid YAML, see line 2"),
        ("epochs: !!python/name:os.system", "not valid YAML, see line 1"),
        ("\x00", "not valid YAML"),
        ("base: mnist\nepochs: 3\nepochs: 4", "not valid YAML, see line 3: 'epochs' is there twice"),
        ("base: mnist\nmodel: {channels: 8, channels: 9}", "not valid YAML, see line 2: 'channels' is there twice"),
        ("- 1", "should hold settings, one `key: value` on a line"),
        ("", "should hold settings"),
    ],
)
def test_mistakes_in_a_file(write, text, expected):
    path = write(text + "\n")
    line = message(load_config, path)
    assert expected in line and line.startswith(str(path))


def test_cycle_of_bases_is_told(write):
    first = write("base: second.yaml\n", "first.yaml")
    write("base: first.yaml\n", "second.yaml")
    assert message(load_config, first).endswith("first.yaml is its own base: remove one `base`")


def test_unreadable_files_are_told(tmp_path):
    assert "nothing.yaml: No such file or directory: give a YAML file or a preset (cifar10, " in message(
        load_config, tmp_path / "nothing.yaml"
    )
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    assert "model.keras: not valid YAML: is it a text file?" in message(load_config, tmp_path / "model.keras")
    assert "Is a directory" in message(load_config, tmp_path)


@pytest.mark.parametrize("call", [load_config, find_preset])
def test_unknown_preset_is_told(call):
    line = message(call, "mnist_lader")
    assert line.startswith("unknown preset 'mnist_lader' (did you mean mnist_ladder?): give one of cifar10, ")


def test_mistakes_in_overrides_name_their_key():
    assert message(load_config, "mnist", {"model": {"channels": -1}}) == "model.channels: -1 should be greater than 0"
    assert message(load_config, "mnist", {"epoch": 1}).startswith("epoch: unknown key (did you mean epochs?)")


@pytest.mark.parametrize(
    "argv, expected",
    [
        ("--epoch 3", "unknown option --epoch (did you mean --epochs?) (--help lists all options)"),
        ("--model.chanels 3", "unknown option --model.chanels (did you mean --model.channels?)"),
        ("--qqqq", "unknown option --qqqq (--help"),
        ("mnist", "unknown option mnist"),
        ("--epochs", "argument --epochs: expected one argument"),
        ("--epochs three", "--epochs: 'three' should be a valid integer"),
        ("--batch-size 0", "--batch-size: '0' should be greater than 0"),
        ("--model.prior-channels 24", "--model.prior-channels: '24' should be a multiple of 16"),
        ("--model.scales 14,x", "--model.scales.1: 'x' should be a valid integer"),
        ("--model.scales 14", "scales [14] and layers_per_scale [4, 4] differ in length"),
        ("--model.scales {14", "model.scales"),
        ("--model.pseudoinput fft", "--model.pseudoinput: 'fft' should be 'dct'"),
        ("--dataset minst", "unknown data set minst (did you mean mnist?)"),
        ("--dataset mnist --image-size 64", "image_size is 64, but images of mnist have side 28"),
        ("--config minst", "unknown preset 'minst' (did you mean mnist?)"),
        ("--config no.yaml", "no.yaml: No such file or directory"),
        ("--dataset mnist --labels", "labels needs model.prior full_mixture: a diffusion prior takes no label"),
        ("--dataset folder:x --labels", "labels needs model.prior full_mixture: a diffusion prior takes no label"),
        ("--dataset folder:x --labels --model.prior mixtre", "--model.prior: 'mixtre' should be 'diffusion'"),
        ("--config mnist_ladder --labels", "labels needs a model with pseudoinputs"),
        ("--dataset tfds:x --epochs three", "--epochs: 'three' should be a valid integer"),
        ("--dataset folder:x --image-size 4", "--image-size: '4' should be greater than or equal to 8"),
    ],
)
def test_mistakes_on_the_command_line_are_told_before_the_data_are_read(argv, expected):
    line = message(parse_train_arguments, argv.split())
    assert expected in line


@pytest.mark.parametrize(
    "argv, shape, expected",
    [
        (
            "--config mnist --dataset cifar10",
            COLOUR,
            "cifar10 has images of 32 x 32 x 3 but the model is for 28 x 28 x 1",
        ),
        (
            "--dataset tfds:x --model.image-size 32",
            (64, 64, 1),
            "64 x 64 x 1 but the model is for 32 x 32 x 1",
        ),
        ("--config mnist --dataset tfds:x", (64, 64, 1), "scales [14, 7] do not fit image_size 64"),
        ("--dataset folder:x", (64, 48, 3), "folder:x has images of 64 x 48"),
        ("--dataset folder:x", (64, 64, 4), "images with 4 channels"),
        ("--dataset folder:x --model.chanels 3", GREY, "unknown option"),
        ("--dataset folder:x --model.channels 0", GREY, "--model.channels: '0' should be greater than 0"),
    ],
)
def test_mistakes_that_the_data_bring_to_light(argv, shape, expected):
    line = message(lambda: resolved(*argv.split(), shape=shape))
    assert expected in line


# Formulae


@pytest.mark.parametrize(
    "arguments, expected",
    [
        # epochs, warm-up, max, end; by hand: cos of 0, pi/4, pi/2, 3 pi/4
        ((4, 0, 1.0, 0.0), [1.0, 0.8535533906, 0.5, 0.1464466094]),
        ((4, 0, 1.0, 0.2), [1.0, 0.8828427125, 0.6, 0.3171572875]),
        ((4, 2, 0.01, 0.0), [0.005, 0.01, 0.005, 0.001464466094]),
        ((4, 3, 0.3, 0.0), [0.1, 0.2, 0.3, 0.04393398282]),
        ((1, 2, 1.0, 0.0), [0.5]),
    ],
)
def test_learning_rate(arguments, expected):
    epochs, warmup, high, low = arguments
    options = {"epochs": epochs, "warmup_epochs": warmup, "learning_rate": high, "end_learning_rate": low}
    assert [learning_rate_at(epoch, **options) for epoch in range(epochs)] == pytest.approx(expected, rel=1e-9)


def test_learning_rate_half_way_through_cifar10():
    options = {"epochs": 3000, "warmup_epochs": 5, "learning_rate": 3e-3, "end_learning_rate": 1e-4}
    assert learning_rate_at(1500, **options) == pytest.approx(1.55e-3)
    assert learning_rate_at(2999, **options) == pytest.approx(1e-4, rel=1e-4)


@pytest.mark.parametrize(
    "steps, momentum, expected",
    [
        (100_000, 0.999, 0.999),
        (10_000, 0.999, 0.999),
        (440, 0.999, 430 / 440),
        (20, 0.999, 0.5),
        (20, 0.3, 0.3),
    ],
)
def test_ema_momentum(steps, momentum, expected):
    assert ema_momentum_for(steps, momentum) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_ema_momentum_of_tiny_runs_is_zero(steps):
    assert ema_momentum_for(steps) == 0


# Models for other data


@pytest.mark.parametrize("channels", [1, 3])
def test_default_model_fits_every_side(channels):
    for side in range(8, 161):
        model = default_model(side, channels)
        assert ModelConfig.model_validate(model.model_dump()) == model
        assert (model.image_size, model.image_channels) == (side, channels)
        assert all(large % small == 0 for large, small in pairwise((side, *model.scales))), side
        assert min(model.scales) >= 4 and len(model.scales) == len(model.layers_per_scale), side
        prime = all(side % factor for factor in range(2, side))
        assert side < 64 or prime or model.scales[0] <= side // 2, side
        assert model.likelihood == ("bernoulli" if channels == 1 else "discretized_logistic_mixture")


@pytest.mark.parametrize(
    "side, channels, scales",
    [
        (28, 1, (14, 7)),
        (45, 1, (15, 5)),
        (50, 3, (50, 25, 5)),
        (32, 3, (32, 16, 8, 4)),
        (64, 3, (32, 16, 8, 4)),
        (96, 3, (48, 24, 12, 6)),
        (100, 1, (50, 25, 5)),
        (128, 3, (64, 32, 16, 8, 4)),
        (31, 1, (31,)),
        (8, 1, (4,)),
    ],
)
def test_default_scales(side, channels, scales):
    assert default_model(side, channels).scales == scales


def test_default_model_for_mnist_is_mnists():
    assert default_model(28, 1) == load_config("mnist").model


def test_default_model_refuses_other_images():
    assert "images with 2 channels" in message(default_model, 32, 2)
    assert "side 7 are too small" in message(default_model, 7, 1)


# Settings of every kind


class Scale(StrictSettings):
    side: int


class Part(StrictSettings):
    sizes: dict[str, Scale]


def test_a_mistake_deep_in_settings_names_its_place():
    values = {"sizes": {"small": {"side": 3, "sid": 4}}}
    assert message(validate, Part, values, "sizes.yaml: ") == (
        "sizes.yaml: sizes.small.sid: unknown key: correct or remove it"
    )
    assert message(validate, Part, {"sizes": {"small": {}}}, "sizes.yaml: ").startswith(
        "sizes.yaml: sizes.small.side: miss"
    )
    assert message(validate, Part, {"sizes": 3}) == "sizes: 3 should be a valid dictionary"


def test_an_override_is_named_where_it_is_the_mistake(write):
    path = write("base: mnist\nepochs: 0\n")
    assert message(load_config, path, {"seed": 1}) == f"{path}: epochs: 0 should be greater than 0"
    assert message(load_config, path, {"seed": -1, "epochs": 1}) == "seed: -1 should be greater than or equal to 0"
