"""The versions of a served model: the newest that loads is served, and newer ones are looked for."""

import logging
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

logger = logging.getLogger(__name__)


class Served(NamedTuple):
    """A version in memory: its number and the SavedModel.

    Whoever calls a signature holds `model` meanwhile: its variables are freed with it.
    """

    version: int
    model: object


class State(NamedTuple):
    """What has become of a version: "LOADING", "AVAILABLE" or "END", and why it could not be loaded, or ""."""

    name: str
    error: str = ""


class Versions:
    """The versions of one model, as TensorFlow Serving looks at them.

    A version is a folder whose name is a whole number; the largest that loads is served. While `update` runs in one
    thread, others may read `served` and `states`, which are replaced and never changed.

    Args:
        folder: path of the folder that holds the version folders.

    Attributes:
        served: `Served`, or None as long as no version has been loaded.
        states: dict from version number to `State`.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.served = None
        self.states = {}
        self._failed = {}  # version number -> the files that it had when it could not be loaded

    def update(self):
        """Loads the newest version that can be loaded, unless it is the one served already.

        A version that cannot be loaded is logged, and tried again only once its files have changed: it may have been
        in the middle of being copied. What was served before stays until another has been loaded.

        Raises:
            OSError: if the folder cannot be read.
        """
        for version, folder in self._found():
            if self.served and version == self.served.version:
                return
            files = {(path, path.stat().st_mtime_ns) for path in folder.rglob("*")}
            if self._failed.get(version) == files:
                continue
            if self._load(version, folder):
                return
            self._failed[version] = files

    def _found(self):
        """Numbers and folders of all versions, newest first."""
        folders = [path for path in self.folder.iterdir() if path.name.isascii() and path.name.isdigit()]
        return sorted(((int(path.name), path) for path in folders if path.is_dir()), reverse=True)

    def _load(self, version, folder):
        before = self.states.get(version)
        self._note(version, State("LOADING"))
        try:
            model = tf.saved_model.load(str(folder))
        except Exception as error:  # TensorFlow raises many types for a damaged SavedModel
            failed = State("END", (str(error).splitlines() or [type(error).__name__])[0])
            self._note(version, failed)
            if failed != before:
                logger.error("version %s cannot be loaded and is left out: %s", version, failed.error)
            return False
        if self.served:
            self._note(self.served.version, State("END"))
            logger.info("version %s takes the place of version %s", version, self.served.version)
        self._note(version, State("AVAILABLE"))
        self.served = Served(version, model)
        return True

    def _note(self, version, state):
        self.states = self.states | {version: state}
