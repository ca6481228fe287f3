"""The command `python -m dvpvae_tf.serve`: a thin server that speaks TensorFlow Serving's REST API."""

import argparse
import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from dvpvae_tf.command_line.options import count
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error

MAX_CONNECTIONS = 64  # further ones get status 503, after which clients try again


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        Namespace with `model`, `name`, `host`, `port`, `max_rows` and `max_body_mb`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser(
        "serve",
        "Serve the newest version of an exported model over TensorFlow Serving's REST API, for development and tests. "
        "In production run TensorFlow Serving on the same folder.",
    )
    parser.add_argument(
        "--model",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder that holds the versions 1, 2, ... of an export",
    )
    parser.add_argument("--name", help="name of the model in the URL (default: the folder's name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--max-rows",
        type=count,
        default=64,
        help="most rows of a request, and of those that are computed together (default: %(default)s)",
    )
    parser.add_argument("--max-body-mb", type=count, default=16, help="most MiB of a request (default: %(default)s)")
    return parser.parse_args(argv)


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command until Ctrl-C or SIGTERM; the server answers open requests before it ends.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can correct; with 130 after
            Ctrl-C.
    """
    arguments = parse_arguments(argv)
    try:
        import uvicorn

        from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
        from dvpvae_tf.serving import saved_model
        from dvpvae_tf.serving.server import application
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install -e '.[serving]'") from error
    name = arguments.name or arguments.model.resolve().name
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(f"{name} cannot stand in a URL: give a --name of letters, digits, _, - and .")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with _listen(arguments.host, arguments.port) as listener:
        loaded = saved_model.load_newest(arguments.model)
        app = application(loaded, name, arguments.max_rows, arguments.max_body_mb * 2**20)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        url = f"http://{host}:{listener.getsockname()[1]}/v1/models/{name}"
        print(
            f"{name}, version {loaded.version}, is served at {url} for development and tests: "
            "in production run TensorFlow Serving",
            flush=True,
        )
        settings = uvicorn.Config(app, log_config=None, log_level="warning", limit_concurrency=MAX_CONNECTIONS)
        uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", error)).split(" (")[0]  # Python adds the address again
        raise UserError(f"cannot listen at {host}, port {port} ({reason}): give another --port or --host") from error


if __name__ == "__main__":
    main()
