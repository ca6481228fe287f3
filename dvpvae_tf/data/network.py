"""Whether there is a network."""

import requests


def reachable(url: str) -> bool:
    """Tests whether a server answers within five seconds.

    Args:
        url: an address of that server.

    Returns:
        Whether it answers, whatever the answer.
    """
    try:
        requests.head(url, timeout=5)
    except requests.RequestException:
        return False
    return True
