"""Times the thin server under concurrent clients: `python benchmarks/requests_per_second.py --help`."""

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests


def measure(url, clients, seconds):
    """Requests per second of clients that each send one row of `sample_png` after another."""
    seeds, answered = itertools.count(), []
    end = time.perf_counter() + seconds

    def send():
        with requests.Session() as session:
            while time.perf_counter() < end:
                rows = [{"seed": next(seeds), "temperature": 0.8}]
                answer = session.post(f"{url}:predict", json={"signature_name": "sample_png", "instances": rows})
                answer.raise_for_status()
                answered.append(time.perf_counter())

    start = time.perf_counter()
    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answered) / (max(answered) - start)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time the thin server under concurrent clients of one row each.")
    parser.add_argument("--model", default="saved_models/mnist", help="exported model (default: %(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="default: 1 8")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="measurements of each number of clients, in turn (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    command = [sys.executable, "-m", "dvpvae_tf.serve", "--model", arguments.model, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        measure(url, 1, 3)  # the first requests are slow
        results = {clients: [] for clients in arguments.clients}
        for _ in range(arguments.repeats):  # in turn, as the speed of a shared machine changes
            for clients, rates in results.items():
                rates.append(measure(url, clients, arguments.seconds))
    finally:
        server.terminate()
        server.wait()
    for clients, rates in results.items():
        print(f"{clients} clients: {', '.join(f'{rate:.1f}' for rate in rates)} requests per second")
    if arguments.output:
        arguments.output.write_text(json.dumps({"model": arguments.model, "requests_per_second": results}))


if __name__ == "__main__":
    main()
