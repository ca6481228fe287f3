"""The thin server: an exported model over TensorFlow Serving's REST API, as a web application.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import asyncio

import tensorflow as tf
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dvpvae_tf.errors import UserError
from dvpvae_tf.serving import protocol
from dvpvae_tf.serving.batching import Batcher
from dvpvae_tf.serving.saved_model import LoadedVersion


def application(loaded: LoadedVersion, name: str, max_rows: int = 64, max_body_bytes: int = 16 * 2**20) -> Starlette:
    """Makes the web application that serves a model.

    `POST /v1/models/<name>:predict` calls a signature, `GET /v1/models/<name>` returns the status and
    `GET /v1/models/<name>/metadata` the signatures; each also below `/v1/models/<name>/versions/<version>`.
    `GET /healthz` is the health check.

    Args:
        loaded: version to serve.
        name: name of the model in the URLs.
        max_rows: limit of the rows of a request, and of those that go through the model together.
        max_body_bytes: limit of the body of a request, in bytes.

    Returns:
        The application, for uvicorn.
    """
    model = f"/v1/models/{name}"
    routes = [Route("/healthz", _health, methods=["GET"])]
    for path in (model, f"{model}/versions/{{version}}"):
        routes.append(Route(f"{path}:predict", _predict, methods=["POST"]))
        routes.append(Route(f"{path}/metadata", _metadata, methods=["GET"]))
        routes.append(Route(path, _status, methods=["GET"]))
    failures = (HTTPException, UserError, tf.errors.InvalidArgumentError, Exception)
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(failures, _error_response))
    app.state.name = name
    app.state.version = str(loaded.version)
    app.state.module = loaded.module  # TensorFlow frees the variables with it
    app.state.signatures = loaded.module.signatures
    app.state.batchers = {key: Batcher(each, max_rows) for key, each in loaded.module.signatures.items()}
    app.state.max_rows = max_rows
    app.state.max_body_bytes = max_body_bytes
    return app


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _predict(request: Request) -> Response:
    state = request.app.state
    _check_version(request)
    body = await _read_body(request)
    parsed = await asyncio.to_thread(protocol.parse_request, body, state.signatures, state.max_rows)
    outputs = await state.batchers[parsed.signature](parsed.inputs)
    errors = outputs.get("error")
    if errors is not None and all(errors):  # no row of the request has a result
        raise UserError("; ".join(dict.fromkeys(error.decode() for error in errors)))
    response = await asyncio.to_thread(protocol.format_response, outputs, parsed.by_rows)
    return Response(response, media_type="application/json")


async def _status(request: Request) -> Response:
    _check_version(request)
    status = {"error_code": "OK", "error_message": ""}
    version = {"version": request.app.state.version, "state": "AVAILABLE", "status": status}
    return JSONResponse({"model_version_status": [version]})


async def _metadata(request: Request) -> Response:
    _check_version(request)
    state = request.app.state
    spec = {"name": state.name, "signature_name": "", "version": state.version}
    return JSONResponse({"model_spec": spec, "metadata": protocol.metadata(state.signatures)})


def _check_version(request: Request) -> None:
    version, served = request.path_params.get("version"), request.app.state.version
    if version not in (None, served):
        raise HTTPException(404, f"version {version} is not served here: version {served} is")


async def _read_body(request: Request) -> bytes:
    """The body of the request, decompressed; it is refused as soon as it is too large."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise HTTPException(415, f"the Content-Encoding {encoding} is not supported: send gzip, or none")
    body, most = bytearray(), request.app.state.max_body_bytes
    too_large = HTTPException(413, f"the request has more than {most} bytes: send fewer rows at a time")
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
    except ClientDisconnect as error:  # nobody reads this answer, but a lost connection is no fault of the server
        raise HTTPException(400, "the request is cut short") from error
    plain = protocol.decompress(bytes(body), most)
    if len(plain) > most:
        raise too_large
    return plain


async def _error_response(request: Request, error: Exception) -> Response:
    status, message = 400, str(error)
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
        if message == "Not Found":  # Starlette's, for a path without a route
            message = f"there is nothing at {request.url.path}: the model is at /v1/models/{request.app.state.name}"
    elif isinstance(error, tf.errors.InvalidArgumentError):
        message = error.message
    elif not isinstance(error, UserError):  # Starlette raises it again, so that it is logged
        status, message = 500, f"{type(error).__name__} in the server: its log says more"
    return JSONResponse({"error": message}, status, getattr(error, "headers", None))
