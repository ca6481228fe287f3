"""The model for images that no preset is made for."""

from dvpvae_tf.config.settings import ModelConfig
from dvpvae_tf.errors import UserError


def default_model(image_size: int, image_channels: int) -> ModelConfig:
    """A model for images that no preset is made for.

    Grey images get the likelihood and the widths of MNIST, colour images a narrower CIFAR-10 model.

    Args:
        image_size: side of the square images, at least 8 pixels.
        image_channels: 1 (grey) or 3 (colour).

    Returns:
        The model, with four stochastic layers on every scale.

    Raises:
        UserError: if the images are smaller than that or have another number of channels.
    """
    if image_size < 8:
        raise UserError(f"images of side {image_size} are too small: give --image-size 8 or more")
    if image_channels not in (1, 3):
        raise UserError(f"images with {image_channels} channels: convert them to grey (1) or colour (3)")
    scales = _default_scales(image_size, full_size=image_channels == 3 and image_size < 64)
    shape = {"image_size": image_size, "image_channels": image_channels}
    layers = {"scales": scales, "layers_per_scale": (4,) * len(scales)}
    if image_channels == 1:
        return ModelConfig(**shape, **layers)
    return ModelConfig(
        **shape,
        **layers,
        latent_channels=3,
        channels=64,
        hidden_channels=48,
        likelihood="discretized_logistic_mixture",
        gamma_min=-10.0,
    )


def _default_scales(side: int, full_size: bool) -> tuple[int, ...]:
    """Divide by the smallest factor while 4 pixels are left; a side without such a factor stays as it is."""
    scales = [side]
    while (smaller := scales[-1] // _smallest_factor(scales[-1])) >= 4:
        scales.append(smaller)
    return tuple(scales if full_size or len(scales) == 1 else scales[1:])


def _smallest_factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)
