"""Copies the weights of the authors' PyTorch checkpoints into models of this library, tensor by tensor."""

import re
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers import ResBlock, TopDownBlock, UNet
from dvpvae_tf.layers.pseudoinputs import DCTPseudoinput
from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.priors import DiffusionPrior

Tensors = dict[str, np.ndarray]
Sources = Iterator[tuple[str, keras.Variable]]

# What a state dict holds beside the weights, with the reason why it is dropped. Patterns match whole names.
DROPPED = {
    r"decoder\.z_L_prior\..*": "the prior over u, registered a second time",
    r".*\.beta": "a constant",
    r".*\.noise_schedule\.gamma_(min|max)": "a constant of the config",
    r".*\.dct\.(basis|reverse)_function_[wh]": "a constant, the DCT's cosines",
}


def read_state_dict(path: str | Path, ema: bool = True) -> Tensors:
    """Reads the tensors of a checkpoint.

    Args:
        path: an `.npz` file with an array for each tensor, or a PyTorch file: a state dict, or the authors'
            checkpoint that holds one or two of them.
        ema: takes the averaged (EMA) weights where the checkpoint has them, else the raw ones.

    Returns:
        The float arrays by the names of the state dict.

    Raises:
        UserError: if there is no such file, it cannot be read, or PyTorch is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the authors' checkpoint (.pt) or its arrays (.npz)")
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_torch(path, ema)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # NumPy and PyTorch raise many types for a damaged or foreign file
        raise UserError(f"{path} is damaged, or holds other things than the tensors of a model") from error


def _read_npz(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_torch(path: Path, ema: bool) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} needs PyTorch: pip install 'torch>=2.6' (or save its arrays as .npz)") from error
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if "model_state_dict" in checkpoint:
        average = checkpoint.get("ema_model_state_dict") if ema else None
        checkpoint = average or checkpoint["model_state_dict"]
    return {name: tensor.detach().float().numpy() for name, tensor in checkpoint.items()}


def load_released_weights(model: DVPVAE, tensors: Tensors) -> dict[str, str]:
    """Copies the authors' weights into a model of the same architecture; all of them, or none.

    Args:
        model: the model that takes them.
        tensors: arrays by the names of the authors' state dict, in PyTorch's layout (convolutions OIHW).

    Returns:
        The reasons by the names of the tensors that were dropped.

    Raises:
        UserError: if a tensor is missing, left over or of another shape, which it names, or the weights are
            of another kind of model.
    """
    _check_kind(model)
    dropped = {name: reason for name in tensors for pattern, reason in DROPPED.items() if re.fullmatch(pattern, name)}
    constants = {name: tensors[name] for name in dropped}
    tensors = {name: value for name, value in tensors.items() if name not in dropped}
    sources = dict(_sources(model))
    dropped |= _drop_dead_weights(model, tensors)
    missing, left_over = sorted(sources.keys() - tensors.keys()), sorted(tensors.keys() - sources.keys())
    if missing or left_over:
        raise UserError(
            f"the weights do not fit the model: {len(missing)} missing ({_some(missing)}), "
            f"{len(left_over)} left over ({_some(left_over)}): is --config right?"
        )
    wrong = [name for name, variable in sources.items() if not _fits(tensors[name], variable)]
    if wrong:
        shape, expected = list(np.shape(tensors[wrong[0]])), list(_released_shape(sources[wrong[0]]))
        raise UserError(
            f"{len(wrong)} tensors have another shape than in the model ({_some(wrong)}), "
            f"the first {shape} for {expected}: is --config right?"
        )
    _check_schedule(model, constants)
    values = {name: _to_keras_layout(tensors[name], variable) for name, variable in sources.items()}
    for name, variable in sources.items():
        variable.assign(values[name])
    if model.pseudoinput is not None:
        # The released code forces sigma into this range at each use.
        model.pseudoinput.log_var.assign(np.clip(model.pseudoinput.log_var.numpy(), -12.0, -5.0))
    return dropped


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _drop_dead_weights(model: DVPVAE, tensors: Tensors) -> dict[str, str]:
    """Removes from `tensors` the weights of the last layer that have no effect; gives the reasons by their names."""
    last = model.num_layers - (model.pseudoinput is None)
    block = f"decoder.decoder_blocks.{last}"
    if model.top_down.likelihood_input == "last_features":
        return {}
    dropped = {}
    for name in (f"{block}.z_up.weight", f"{block}.z_up.bias"):
        if tensors.pop(name, None) is not None:
            dropped[name] = "dead: no layer below sees this projection"
    alive = 2 * model.top_down.latent_channels
    for layer in ("net.3", "skip"):
        for kind in ("weight", "bias"):
            name = f"{block}.s_to_p.{layer}.{kind}"
            if name in tensors and len(tensors[name]) > alive:
                dropped[f"{name}[{alive}:]"] = "dead: no layer below sees these features"
                tensors[name] = tensors[name][:alive]
    return dropped


def _check_kind(model: DVPVAE) -> None:
    kind = isinstance(model.pseudoinput, DCTPseudoinput), isinstance(model.prior, DiffusionPrior)
    if model.pseudoinput is not None and not all(kind):
        raise UserError("the authors' weights are for DCT pseudoinputs with a diffusion prior: change --config")


def _check_schedule(model: DVPVAE, constants: Tensors) -> None:
    """Compares the noise schedules, which change no shape."""
    if model.prior is None:
        return
    for end in ("gamma_min", "gamma_max"):
        theirs = constants.get(f"decoder.decoder_blocks.0.ctx_prior.noise_schedule.{end}")
        if theirs is not None and not np.allclose(theirs, ours := getattr(model.prior.schedule, end)):
            raise UserError(
                f"the weights are for {end} {np.ravel(theirs)[0]:g}, the model for {ours:g}: change --config"
            )


def _released_shape(variable: keras.Variable) -> tuple[int, ...]:
    """Gives the shape of a variable in PyTorch's layout."""
    shape = tuple(variable.shape)
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])  # HWIO to OIHW
    if len(shape) == 3:
        return (1, shape[2], *shape[:2])  # HWC, of pseudoinputs, to 1CHW
    return shape[::-1]


def _fits(value: np.ndarray, variable: keras.Variable) -> bool:
    shape, expected = np.shape(value), _released_shape(variable)
    return shape in (expected, (*expected, 1)) if len(expected) == 2 else shape == expected


def _to_keras_layout(value: np.ndarray, variable: keras.Variable) -> np.ndarray:
    value = np.asarray(value, "float32")
    rank = len(variable.shape)
    if rank == 4:
        return value.transpose(2, 3, 1, 0)
    if rank == 3:
        return value[0].transpose(1, 2, 0)
    return value.reshape(value.shape[:rank]).T  # some dense layers are 1x1 convolutions there


def _sources(model: DVPVAE) -> Sources:
    """Pairs each name of the authors' state dict with the variable that it fills."""
    yield from _layer("encoder.pre_process.0", model.bottom_up.conv_in)
    for scale, stage in enumerate(model.bottom_up.stages):
        for index, block in enumerate(stage):
            yield from _res_block(f"encoder.encoder_blocks.{scale}.{index}", block, "net.{}.net.1", "net.{}.net.1")
    first = 0 if model.pseudoinput is None else 1
    for index, block in enumerate(model.top_down.blocks):
        yield from _top_down_block(f"decoder.decoder_blocks.{first + index}", block)
    if model.top_down.likelihood_input != "last_features":
        yield from _layer("decoder.z_to_features", model.top_down.aggregation)
    yield from _layer("decoder.post_process.0", model.top_down.conv_out)
    if model.pseudoinput is not None and model.prior is not None:
        yield "decoder.decoder_blocks.0.q_logvar", model.pseudoinput.log_var
        yield "decoder.decoder_blocks.0.dct_scale", model.pseudoinput.scale
        yield from _unet("decoder.decoder_blocks.0.ctx_prior.model", model.prior.unet)


def _layer(name: str, layer: keras.Layer) -> Sources:
    """Pairs the weights of a convolution, dense or normalisation layer."""
    normalisation = isinstance(layer, keras.layers.GroupNormalization)
    yield f"{name}.weight", layer.gamma if normalisation else layer.kernel
    yield f"{name}.bias", layer.beta if normalisation else layer.bias


def _res_block(name: str, block: ResBlock, inner: str = "net.{}.net.0", last: str = "net.{}") -> Sources:
    for index, layer in enumerate(block.convolutions):
        yield from _layer(f"{name}.{(last if index == 3 else inner).format(index)}", layer)
    if block.skip is not None:
        yield from _layer(f"{name}.skip", block.skip)


def _top_down_block(name: str, block: TopDownBlock) -> Sources:
    yield from _res_block(f"{name}.s_to_p", block.prior)
    yield from _res_block(f"{name}.s_to_q", block.posterior)
    if block.has_output:
        yield from _layer(f"{name}.z_up", block.latent_projection)
        yield from _res_block(f"{name}.resnet.0", block.residual)


def _unet(name: str, unet: UNet) -> Sources:
    yield from _layer(f"{name}.time_embed.0", unet.time_embedding.hidden)
    yield from _layer(f"{name}.time_embed.2", unet.time_embedding.output_layer)
    yield from _layer(f"{name}.input_blocks.0.0", unet.conv_in)
    for index, block in enumerate(unet.down):
        yield from _unet_block(f"{name}.input_blocks.{index + 1}.0", block)
    yield from _unet_block(f"{name}.middle_block.0", unet.middle_in)
    yield from _layer(f"{name}.middle_block.1.norm", unet.attention.norm)
    yield from _layer(f"{name}.middle_block.1.qkv", unet.attention.query_key_value)
    yield from _layer(f"{name}.middle_block.1.proj_out", unet.attention.projection)
    yield from _unet_block(f"{name}.middle_block.2", unet.middle_out)
    for index, block in enumerate(unet.up):
        yield from _unet_block(f"{name}.output_blocks.{index}.0", block)
    yield from _layer(f"{name}.out.0", unet.norm_out)
    yield from _layer(f"{name}.out.2", unet.conv_out)


def _unet_block(name: str, block: keras.Layer) -> Sources:
    yield from _layer(f"{name}.in_layers.0", block.norm_in)
    yield from _layer(f"{name}.in_layers.2", block.conv_in)
    yield from _layer(f"{name}.emb_layers.1", block.modulation)
    yield from _layer(f"{name}.out_layers.0", block.norm_out)
    yield from _layer(f"{name}.out_layers.3", block.conv_out)
    if block.skip is not None:
        yield from _layer(f"{name}.skip_connection", block.skip)
