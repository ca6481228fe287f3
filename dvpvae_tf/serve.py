"""The command `python -m dvpvae_tf.serve`: a thin server that speaks TensorFlow Serving's REST API."""

import logging
import re
import socket
from pathlib import Path

from dvpvae_tf.command_line import count
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.serving.versions import Versions

MOST_CONNECTIONS = 64  # at a time: the status of others is 503, which clients try again


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `model`, `name`, `host`, `port`, `max_rows`, `max_body_mb` and `poll_seconds`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser(
        "serve",
        "Serve an exported model over TensorFlow Serving's REST API: for development and tests. New versions are "
        "served as they appear. In production run TensorFlow Serving on the same folder.",
    )
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="holds folders 1, 2, ... of export")
    parser.add_argument("--name", help="of the model in the URL (default: that of the folder)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="0 takes one that is free (default: %(default)s)")
    parser.add_argument("--max-rows", type=count, default=64, help="in a request (default: %(default)s)")
    parser.add_argument("--max-body-mb", type=count, default=16, help="MiB of a request (default: %(default)s)")
    parser.add_argument(
        "--poll-seconds", type=count, default=2, help="between looks for versions (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the command, until Ctrl-C or SIGTERM; requests that are being answered then are answered first.

    Args:
        argv: list of str; by default the arguments of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right; with 130
            after Ctrl-C.
    """
    with exit_on_error():
        arguments = parse_arguments(argv)
        try:
            import uvicorn

            from dvpvae_tf.serving.rest import application
        except ImportError as error:
            raise UserError(f"serving needs {error.name}: pip install -e '.[serving]'") from error
        name = arguments.name or arguments.model.resolve().name
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise UserError(f"{name} cannot stand in a URL: give a --name of letters, digits, _, - and .")
        logging.basicConfig(format="%(levelname)s: %(message)s")
        logging.getLogger("dvpvae_tf").setLevel(logging.INFO)
        with _listening(arguments.host, arguments.port) as listener:
            versions = _loaded(arguments.model)
            app = application(versions, name, arguments.max_rows, arguments.max_body_mb * 2**20, arguments.poll_seconds)
            host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
            url = f"http://{host}:{listener.getsockname()[1]}/v1/models/{name}"
            print(
                f"{name}, version {versions.served.version}, is served at {url} for development and tests: "
                "in production run TensorFlow Serving",
                flush=True,
            )
            settings = uvicorn.Config(app, log_config=None, log_level="warning", limit_concurrency=MOST_CONNECTIONS)
            uvicorn.Server(settings).run(sockets=[listener])


def _listening(host, port):
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", error)).split(" (")[0]  # Python adds the address again
        raise UserError(f"cannot listen at {host}, port {port} ({reason}): give another --port or --host") from error


def _loaded(folder):
    versions = Versions(folder)
    try:
        versions.update()
    except OSError as error:
        raise UserError(f"cannot read the folder {folder} ({error.strerror}): give one that export has made") from error
    if not versions.served:
        found = "none that can be loaded" if versions.states else "none"
        raise UserError(f"{folder} should hold versions in folders 1, 2, ... and has {found}: export one")
    return versions


if __name__ == "__main__":
    main()
