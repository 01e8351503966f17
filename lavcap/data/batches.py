"""Items in lists of one size."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar


Item = TypeVar("Item")


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    if size < 1:
        raise ValueError(f"batch_size is {size}, expected at least 1.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
