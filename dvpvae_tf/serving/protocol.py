"""TensorFlow Serving's REST protocol: JSON requests to arrays, arrays to JSON responses, and the metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
import tensorflow as tf

from dvpvae_tf.errors import UserError, did_you_mean

GZIP_START = b"\x1f\x8b"


class PredictRequest(NamedTuple):
    """A parsed request.

    Attributes:
        signature: name of the signature to call.
        inputs: array of each input, first dimension N; strings are arrays of bytes objects.
        by_rows: whether the request lists rows ("instances") and so wants "predictions", not "outputs".
    """

    signature: str
    inputs: dict[str, np.ndarray]
    by_rows: bool


def decompress(body: bytes, max_bytes: int) -> bytes:
    """Decompresses a gzip body; returns any other body as it is.

    Args:
        body: body of a request.
        max_bytes: limit of the result, against small bodies that grow huge.

    Returns:
        The plain body; `max_bytes` + 1 bytes of it where it is larger than the limit.

    Raises:
        UserError: if the gzip data are damaged or cut short.
    """
    if not body.startswith(GZIP_START):
        return body
    decompressor = zlib.decompressobj(wbits=31)  # 31: with the header of gzip
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise UserError(f"the gzip body of the request is damaged: {error}") from error
    if not decompressor.eof and len(plain) <= max_bytes:
        raise UserError("the gzip body of the request is cut short")
    return plain


def parse_request(
    body: bytes, signatures: Mapping[str, tf.types.experimental.ConcreteFunction], max_rows: int
) -> PredictRequest:
    """Parses the body of a predict request.

    Args:
        body: JSON, `{"signature_name": ..., "instances": [...]}` or `{"signature_name": ..., "inputs": ...}`.
        signatures: signatures of the loaded SavedModel.
        max_rows: limit of the number of rows.

    Returns:
        `PredictRequest`.

    Raises:
        UserError: if the body is no such JSON, the signature does not exist, or an input is missing, unknown, of
            another type or shape, or has no rows or too many.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UserError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise UserError('the request is not {"signature_name": ..., "instances": [...]} or {..., "inputs": ...}')
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures:
        names = ", ".join(sorted(signatures))
        raise UserError(f"there is no signature {name}{did_you_mean(str(name), signatures)}: there are {names}")
    specs = input_specs(signatures[name])
    by_rows = "instances" in request
    columns = _columns_of_rows(request["instances"], specs) if by_rows else _by_name(request["inputs"], specs)
    _check_rows(columns, max_rows)
    return PredictRequest(name, {key: _array(key, columns[key], spec) for key, spec in specs.items()}, by_rows)


def input_specs(signature: tf.types.experimental.ConcreteFunction) -> dict[str, tf.TensorSpec]:
    """Lists the inputs of a signature of a loaded SavedModel.

    Args:
        signature: function from `signatures` of the loaded SavedModel.

    Returns:
        Name and `tf.TensorSpec` of each input, sorted by name.
    """
    return dict(sorted(signature.structured_input_signature[1].items()))


def _columns_of_rows(rows: Any, specs: dict) -> dict[str, list]:
    if not isinstance(rows, list) or not rows:
        raise UserError('"instances" is not a list of at least one row')
    rows = [_by_name(row, specs, f"row {index}: ") for index, row in enumerate(rows)]
    return {name: [row[name] for row in rows] for name in specs}


def _by_name(value: Any, specs: dict, where: str = "") -> dict[str, Any]:
    """The values by the names of their inputs; a single input may come without its name."""
    if len(specs) == 1 and (not isinstance(value, dict) or value.keys() == {"b64"}):
        value = dict.fromkeys(specs, value)
    if not isinstance(value, dict):
        raise UserError(f"{where}give each input by its name: {', '.join(specs)}")
    for name in sorted(specs.keys() - value.keys()):
        raise UserError(f"{where}the input {name} is missing")
    for name in sorted(value.keys() - specs.keys()):
        raise UserError(f"{where}there is no input {name}{did_you_mean(name, specs)}: there are {', '.join(specs)}")
    return value


def _check_rows(columns: dict[str, Any], max_rows: int) -> None:
    numbers = {name: len(value) if isinstance(value, list) else 0 for name, value in columns.items()}
    for name, number in numbers.items():
        if not number:
            raise UserError(f"the input {name} is not a list of at least one row")
        if number > max_rows:
            raise UserError(f"the input {name} has {number} rows, and a request may have {max_rows}")
    if len(set(numbers.values())) > 1:
        raise UserError(f"the inputs differ in their numbers of rows: {numbers}")


def _array(name: str, value: list, spec: tf.TensorSpec) -> np.ndarray:
    """The array of an input; TensorFlow is strict with the types of JSON values."""
    expected = f"the input {name} takes {spec.dtype.name} {_shape(spec)}"
    try:
        if spec.dtype == tf.string:
            value = [_bytes(leaf) for leaf in value]
        array = tf.constant(value, spec.dtype).numpy()
    except (TypeError, ValueError) as error:
        raise UserError(f"{expected}: {str(error).splitlines()[0][:200]}") from error
    if not spec.shape.is_compatible_with(array.shape):
        raise UserError(f"{expected}, and this one has shape {list(array.shape)}")
    return array


def _shape(spec: tf.TensorSpec) -> str:
    return f"[{', '.join('N' if side is None else str(side) for side in spec.shape)}]"


def _bytes(leaf: Any) -> bytes:
    """The bytes of a JSON string, or of {"b64": ...}."""
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, dict) and leaf.keys() == {"b64"} and isinstance(leaf["b64"], str):
        return base64.b64decode(leaf["b64"], validate=True)
    raise TypeError('a value is neither text nor {"b64": ...}')


def format_response(outputs: dict[str, np.ndarray], by_rows: bool) -> bytes:
    """Formats the outputs of a signature as the body of a response.

    JSON has no NaN and no infinity: each is `null`.

    Args:
        outputs: array of each output, first dimension N; names that end in `_bytes` are sent in base64, other bytes as
            text.
        by_rows: see `PredictRequest`.

    Returns:
        JSON, `{"predictions": [...]}` or `{"outputs": ...}`.
    """
    columns = {name: _json_values(name, array) for name, array in outputs.items()}
    if by_rows:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        response = {"predictions": [_bare_if_single(row) for row in rows]}
    else:
        response = {"outputs": _bare_if_single(columns)}
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)


def _json_values(name: str, array: np.ndarray) -> np.ndarray | list:
    if array.dtype != object:
        return array
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(value).decode()} for value in array]
    return [value.decode(errors="replace") for value in array]


def _bare_if_single(outputs: dict) -> Any:
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def metadata(signatures: Mapping[str, tf.types.experimental.ConcreteFunction]) -> dict:
    """Describes the signatures as TensorFlow Serving's `/metadata` does.

    Args:
        signatures: signatures of the loaded SavedModel.

    Returns:
        dict that JSON can hold: dtype, shape and name of each input and output of each signature.
    """
    described = {}
    for name, signature in sorted(signatures.items()):
        described[name] = {
            "inputs": {key: _describe(key, spec) for key, spec in input_specs(signature).items()},
            "outputs": {key: _describe(key, spec) for key, spec in sorted(signature.structured_outputs.items())},
            "method_name": "tensorflow/serving/predict",
        }
    return {"signature_def": {"signature_def": described}}


def _describe(name: str, spec: tf.TensorSpec) -> dict:
    proto = tf.TensorSpec(spec.shape, spec.dtype).experimental_as_proto()
    dtype = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number[proto.dtype].name
    sides = [{"size": str(side.size), "name": side.name} for side in proto.shape.dim]
    return {"dtype": dtype, "tensor_shape": {"dim": sides, "unknown_rank": False}, "name": name}
