"""Dynamic batching, with signatures that note which batches they get."""

import asyncio

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.serving.batching import Batcher


@pytest.fixture
def batches():
    return []


@pytest.fixture
def batcher(batches):
    """Doubles numbers, at most 8 at a time; fails on a batch with a negative one."""

    def double(numbers):
        batches.append(numbers.numpy().tolist())
        if min(batches[-1]) < 0:
            raise tf.errors.InvalidArgumentError(None, None, "negative")
        return {"doubled": 2 * numbers}

    return Batcher(double, max_rows=8)


def answers(batcher, *requests):
    """The answers to requests that come at the same time, errors included."""

    async def gather():
        jobs = (batcher({"numbers": np.array(numbers)}) for numbers in requests)
        return await asyncio.gather(*jobs, return_exceptions=True)

    return [each if isinstance(each, Exception) else each["doubled"].tolist() for each in asyncio.run(gather())]


def test_concurrent_requests_are_computed_together_and_get_their_own_rows(batcher, batches):
    assert answers(batcher, [1], [2, 3], [4]) == [[2], [4, 6], [8]]
    assert batches == [[1, 2, 3, 4]]


def test_a_batch_has_no_more_rows_than_allowed(batcher, batches):
    requests = [[10 * number + row for row in range(3)] for number in range(5)]
    assert answers(batcher, *requests) == [[2 * value for value in request] for request in requests]
    assert [len(batch) for batch in batches] == [6, 6, 3]


def test_a_request_fails_alone(batcher, batches):
    first, second, third = answers(batcher, [1], [-1], [2])
    assert (first, third) == ([2], [4]) and isinstance(second, tf.errors.InvalidArgumentError)
    assert batches == [[1, -1, 2], [1], [-1], [2]]
    assert answers(batcher, [5]) == [[10]], "it goes on"
