"""Order: in which order kernels run.

Comes in: what each kernel needs to run before it, what it reads and what it takes. Goes out: an order. Kernels run as
the graph mentions them, dependencies first; but one that can run and frees no less memory than it takes runs at once.
So the gradient of a weight, which nothing waits for, does not keep an activation alive until the end.

Here 2 needs nothing more than 0, and frees the 8 bytes of "a" once 1 has read it:

>>> in_order([set(), {0}, {0}, {1}], [{}, {"a": 8}, {"a": 8}, {"b": 8}], [8, 8, 8, 8])
[0, 1, 2, 3]
>>> in_order([set(), {0}, {1}, {0}], [{}, {"a": 8}, {"b": 8}, {"a": 8}], [8, 8, 9, 0])
[0, 1, 3, 2]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def in_order(needs: Sequence[set[int]], reads: Sequence[Mapping[Any, int]], takes: Sequence[int]) -> list[int]:
    """The jobs 0, 1, ... in the order in which they run.

    `needs` are the jobs before each, `reads` the values that each reads with the bytes that are free when nobody
    reads them any more, `takes` the bytes that each needs for what it writes.
    """
    waiting = [set(before) for before in needs]
    following: list[list[int]] = [[] for _ in needs]
    readers: dict[Any, set[int]] = {}  # that have yet to run
    for job, before in enumerate(needs):
        for other in before:
            following[other].append(job)
        for value in reads[job]:
            readers.setdefault(value, set()).add(job)
    result: list[int] = []
    done = [False] * len(needs)

    def pays(job: int) -> bool:
        freed = sum(nbytes for value, nbytes in reads[job].items() if len(readers[value]) == 1)
        return 0 < freed >= takes[job]

    def run(job: int) -> None:
        pending = [job]
        while pending:
            job = pending.pop()
            if done[job]:
                continue
            done[job] = True
            result.append(job)
            for other in following[job]:
                waiting[other].discard(job)
            near = set(following[job])
            for value in reads[job]:
                readers[value].discard(job)
                if len(readers[value]) == 1:
                    near |= readers[value]
            pending += sorted((n for n in near if not done[n] and not waiting[n] and pays(n)), reverse=True)

    for first in range(len(needs)):
        stack = [first]
        while stack:
            first_of_all = [] if done[stack[-1]] else sorted(waiting[stack[-1]], reverse=True)
            if first_of_all:
                stack += first_of_all
            else:
                run(stack.pop())
    return result
