"""One job shared out to several processes or machines: which rows each takes, and the files they leave."""

import re
from pathlib import Path
from typing import NamedTuple

from dvpvae_tf.errors import UserError


class Shard(NamedTuple):
    """Part `index`, from 0, of a job that `count` processes share; they need not run at the same time."""

    index: int
    count: int

    def rows(self, num, batch_size):
        """Chooses the rows of this shard: a run of whole batches, so that a row is in the batch that it is always in.

        Args:
            num: int, rows of the whole job.
            batch_size: int, rows of a batch; where there are fewer batches than shards, these take smaller ones.

        Returns:
            range.

        Raises:
            UserError: if there are more shards than rows.
        """
        if self.count > num:
            raise UserError(f"{num} images cannot be shared out to {self.count} shards: take {num} at most")
        size = smaller_batch(num, batch_size, self.count)
        batches = -(-num // size)
        first, end = (min(num, size * (batches * index // self.count)) for index in (self.index, self.index + 1))
        return range(first, end)

    def part_of(self, output):
        """Names the file or folder of this shard, beside that of the whole job.

        Args:
            output: path.

        Returns:
            Path, such as `samples-0-of-3.npz`.
        """
        return output.with_name(f"{output.stem}-{self.index}-of-{self.count}{output.suffix}")


def smaller_batch(num, batch_size, parts):
    """Makes batches small enough for each part of a job to have one.

    Args:
        num: int, rows of the job.
        batch_size: int, the most rows of a batch.
        parts: int, how many parts work on the job.

    Returns:
        int, rows of a batch, at least 1.
    """
    return min(batch_size, max(1, num // parts))


def check_of_one_job(settings):
    """Checks that parts are of the same job.

    Args:
        settings: list of dicts, one a part: all that the parts of a job have in common.

    Raises:
        UserError: if they differ.
    """
    first, *others = settings
    names = {*first}.union(*others)
    different = sorted(name for name in names if any(other.get(name) != first.get(name) for other in others))
    if different:
        raise UserError(f"the parts are not of one job: {', '.join(different)} differ")


def parts_of(output):
    """Finds what the shards of a job have left.

    Args:
        output: path of the whole job's file or folder.

    Returns:
        list of paths, in the order of the shards.

    Raises:
        UserError: if there are none, not all, or those of jobs with other numbers of shards.
    """
    output = Path(output)
    pattern = re.compile(rf"{re.escape(output.stem)}-(\d+)-of-(\d+){re.escape(output.suffix)}")
    matches = filter(None, (pattern.fullmatch(path.name) for path in output.absolute().parent.glob("*")))
    found = {Shard(int(match[1]), int(match[2])) for match in matches}
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
