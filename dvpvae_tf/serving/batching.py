"""Dynamic batching: rows of concurrent requests go through the model together."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]

MAX_WAIT = 0.05  # seconds


class _Job(NamedTuple):
    inputs: Arrays
    outputs: asyncio.Future

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


class Batcher:
    """Computes one signature for concurrent requests, one batch at a time.

    While a batch is computed, further requests wait, and the next batch takes all of them, up to `max_rows`. Before a
    batch starts, it waits for a tenth of the time of the last one, at most `MAX_WAIT`: clients that were just answered
    join it with their next request. If a batch fails, each of its requests is computed alone: a request never fails
    because of another.

    Args:
        signature: function of tensors by name that returns tensors by name, all with first dimension N. Each row of its
            outputs depends on that row of its inputs alone.
        max_rows: limit of the rows of a batch.
    """

    def __init__(self, signature: Callable, max_rows: int):
        self._signature = signature
        self._max_rows = max_rows
        self._wait = 0.0
        self._waiting: deque[_Job] = deque()
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, inputs: Arrays) -> Arrays:
        """Computes the rows of one request.

        Args:
            inputs: array of each input, first dimension N, at most `max_rows`.

        Returns:
            Array of each output, first dimension N.

        Raises:
            Exception: what the signature raises for these rows.
        """
        job = _Job(inputs, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        async with self._one_at_a_time:
            if not job.outputs.done():  # else it was part of the batch of a request that came before
                await asyncio.sleep(self._wait)
                start = time.perf_counter()
                await self._compute(self._next_batch())
                self._wait = min(MAX_WAIT, 0.1 * (time.perf_counter() - start))
        return job.outputs.result()

    def _next_batch(self) -> list[_Job]:
        """The oldest waiting jobs, in order, as many as fit."""
        batch = [self._waiting.popleft()]
        rows = batch[0].rows
        while self._waiting and rows + self._waiting[0].rows <= self._max_rows:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        return batch

    async def _compute(self, batch: list[_Job]) -> None:
        try:
            parts = await asyncio.to_thread(self._run, [job.inputs for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].outputs.set_exception(error)
                return
            for job in batch:
                await self._compute([job])
            return
        for job, part in zip(batch, parts, strict=True):
            job.outputs.set_result(part)

    def _run(self, requests: list[Arrays]) -> list[Arrays]:
        """Joins the rows of the requests, calls the signature and splits its outputs."""
        inputs = {name: np.concatenate([each[name] for each in requests]) for name in requests[0]}
        outputs = self._signature(**{name: tf.constant(array) for name, array in inputs.items()})
        ends = np.cumsum([len(next(iter(each.values()))) for each in requests])[:-1]
        parts = {name: np.split(value.numpy(), ends) for name, value in outputs.items()}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
