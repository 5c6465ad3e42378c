"""The two ends of the agent's loop that may not block it: what goes out, and long work.

**Invariants.** Nothing here waits, but for the worker's own thread. Frames leave in the
order in which they came. What the worker found out is handled in the agent's own thread.

How much may wait is not bounded here: who adds looks at `size`, and who submits counts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Optional

__all__ = ["BrainGone", "Output", "Worker"]


class BrainGone(Exception):
    """The brain does not read any more."""


class Output:
    """Frames on their way out; never blocks."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0
        self._chunks: deque[memoryview] = deque()

    def add(self, data: bytes) -> None:
        """Append a frame."""
        self._chunks.append(memoryview(data))
        self.size += len(data)

    def flush(self) -> None:
        """Write what can be written. Raises BrainGone."""
        chunks = self._chunks
        while chunks:
            try:
                done = os.writev(self.fd, list(islice(chunks, 64)))
            except BlockingIOError:
                return
            except OSError as error:
                raise BrainGone from error
            self.size -= done
            while done:
                first = chunks[0]
                if done < len(first):
                    chunks[0] = first[done:]
                    break
                done -= len(first)
                chunks.popleft()


class Worker:
    """One thread for what cannot be cut into slices.

    A job runs there; the function it returns, or posts, runs in the agent's own thread.
    """

    def __init__(self, wake_fd: int) -> None:
        self._wake_fd = wake_fd
        self._jobs: SimpleQueue[Callable[[], Optional[Callable[[], None]]]] = SimpleQueue()
        self._thread: Optional[Thread] = None
        self.done: deque[Callable[[], None]] = deque()
        self.stopped = False

    def submit(self, job: Callable[[], Optional[Callable[[], None]]]) -> None:
        """Have a job done after those before it."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="worker", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def post(self, result: Callable[[], None]) -> None:
        """Have something done in the agent's thread, soon."""
        self.done.append(result)
        try:
            os.write(self._wake_fd, b"w")
        except OSError:
            pass  # full: the agent wakes up anyway; closed: it has ended

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if self.stopped:
                return
            result = job()
            if result is not None:
                self.post(result)

    def stop(self) -> None:
        """Begin no further job."""
        self.stopped = True
        if self._thread is not None:
            self._jobs.put(lambda: None)
