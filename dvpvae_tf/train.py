"""The command `python -m dvpvae_tf.train`: trains a model on a data set; `--help` lists all settings."""

from dvpvae_tf import training
from dvpvae_tf.config import ema_momentum_for, settings_as_yaml
from dvpvae_tf.config.train_arguments import parse_train_arguments
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.distribute.strategies import make_strategy
from dvpvae_tf.distribute.workers import is_chief
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.pictures.rows import PRIOR_TEMPERATURE, TEMPERATURE


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str, the arguments; None takes those of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    with exit_on_error():
        arguments = parse_train_arguments(argv)
        # Machines must be connected before TensorFlow does anything, such as reading the data.
        data, dry_run = arguments.settings, arguments.options.dry_run
        strategy = None if dry_run else make_strategy(data)
        images = read_images(data.dataset, data.data_dir, data.image_size, data.omniglot_mat)
        config = arguments.resolve(images[0].shape[1:])
        steps_per_epoch = len(images[0]) // config.batch_size
        if dry_run or is_chief(strategy):
            _print_plan(config, steps_per_epoch)
        if not dry_run:
            bound = training.train(config, images, arguments.options.resume, strategy=strategy)
            if bound is not None:
                _print_bound(config, bound)


def _print_plan(config, steps_per_epoch):
    model = training.make_model(config, steps_per_epoch)
    steps = steps_per_epoch * config.epochs
    print(settings_as_yaml(config))
    print(f"Trainable parameters: {model.num_parameters:,}")
    print(f"Steps: {config.epochs} epochs of {steps_per_epoch} steps of {config.batch_size} images, {steps:,} in all")
    print(f"EMA momentum: {ema_momentum_for(steps, config.ema_momentum):.4g}")


def _print_bound(config, bound):
    print(
        f"Test negative ELBO, continuous-time prior: {bound.negative_elbo:.2f} +- {bound.standard_error:.2f} nats, "
        f"{bound.bits_per_dim:.4f} +- {bound.bits_per_dim_standard_error:.4f} bits per dimension\n"
        f"  reconstruction {bound.reconstruction:.2f}, KL of z {bound.kl_z:.2f}, KL of u {bound.kl_u:.2f} nats; "
        f"{bound.num_images} images, one draw of the noise each, seed {config.seed}, EMA weights of the best epoch\n"
        f"Model, metrics and pictures (samples at temperature {TEMPERATURE}, of the prior over u "
        f"{PRIOR_TEMPERATURE}): {config.output}/{config.name}"
    )


if __name__ == "__main__":
    main()
