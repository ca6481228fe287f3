"""One job split into shards for several processes or machines: the rows of each shard, and its files."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvpvae_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of the parts into which a job is split. The parts need not run at the same time.

    Attributes:
        index: number of this part, counted from 0.
        count: number of parts.
    """

    index: int
    count: int

    def rows(self, num: int, batch_size: int) -> range:
        """Chooses the rows of this shard.

        A shard has whole batches, so each row has the same neighbours in its batch as without shards.

        Args:
            num: number of rows of the whole job.
            batch_size: rows in a batch. It becomes smaller where there would be fewer batches than shards.

        Returns:
            The indices of its rows.

        Raises:
            UserError: if there are more shards than rows.
        """
        if self.count > num:
            raise UserError(f"{num} images cannot be shared out to {self.count} shards: take {num} at most")
        size = smaller_batch(num, batch_size, self.count)
        batches = -(-num // size)
        first, end = (min(num, size * (batches * index // self.count)) for index in (self.index, self.index + 1))
        return range(first, end)

    def part_of(self, output: Path) -> Path:
        """Names the file or folder that this shard writes.

        Args:
            output: path of the whole job's file or folder, such as `samples.npz`.

        Returns:
            A path beside it, such as `samples-0-of-3.npz`.
        """
        return output.with_name(f"{output.stem}-{self.index}-of-{self.count}{output.suffix}")


def smaller_batch(num: int, batch_size: int, parts: int) -> int:
    """Reduces the batch size so that each part of a job has at least one batch.

    Args:
        num: number of rows of the job.
        batch_size: the largest batch size.
        parts: number of parts.

    Returns:
        The batch size, at least 1.
    """
    return min(batch_size, max(1, num // parts))


def check_same_job(settings: Sequence[dict[str, Any]]) -> None:
    """Checks that all parts belong to the same job.

    Args:
        settings: the settings of the job that each part was made with.

    Raises:
        UserError: if they differ.
    """
    first, *others = settings
    names = {*first}.union(*others)
    different = sorted(name for name in names if any(other.get(name) != first.get(name) for other in others))
    if different:
        raise UserError(f"the parts are not of one job: {', '.join(different)} differ")


def fingerprint(arrays: Iterable["np.ndarray"]) -> int:
    """Computes a checksum, which tells whether the parts of a job have the same weights or images.

    Args:
        arrays: of any shapes and types, contiguous.

    Returns:
        From 0 to 2^32 - 1.
    """
    return functools.reduce(lambda number, array: zlib.crc32(array.data, number), arrays, 0)


def parts_of(output: Path) -> list[Path]:
    """Finds the files or folders that the shards of a job have written.

    Args:
        output: path of the whole job's file or folder.

    Returns:
        The paths, in the order of the shards.

    Raises:
        UserError: if there are none, one is missing, or there are parts of jobs with different numbers of shards.
    """
    pattern = re.compile(rf"{re.escape(output.stem)}-(\d+)-of-(\d+){re.escape(output.suffix)}")
    matches = (pattern.fullmatch(path.name) for path in output.absolute().parent.glob("*"))
    found = {Shard(int(match[1]), int(match[2])) for match in matches if match}
    counts = sorted({shard.count for shard in found})
    if not found:
        raise UserError(f"there is no {Shard(0, 1).part_of(output)} or the like: run the job with --shard first")
    if len(counts) > 1:
        raise UserError(
            f"there are parts of {output} from {' and from '.join(map(str, counts))} shards: remove those not meant"
        )
    shards = [Shard(index, counts[0]) for index in range(counts[0])]
    if missing := [shard for shard in shards if shard not in found]:
        raise UserError(f"{missing[0].part_of(output)} is missing: run --shard {missing[0].index}/{counts[0]} first")
    return [shard.part_of(output) for shard in shards]
