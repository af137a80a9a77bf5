"""Work on several processes, each with something of its own that takes long to make."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from engine.errors import ModelError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    make: Callable[[], Callable[[T], Sequence[R]]], tasks: Sequence[T], count: int
) -> Iterator[R]:
    """What the tasks give, as they are finished, in any order.

    Args:
        make: called once in each process, for the function that does a task. It is pickled.
        tasks: handed out one by one, in order.
        count: of processes, which have an equal share of this one's threads each.

    Raises:
        ModelError: a process failed or died. The others are ended.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    waiting = deque(tasks)
    processes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(count, len(tasks))):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, make, threads), daemon=True)
            process.start()
            there.close()  # the process alone holds it: its end is told here
            processes[here] = process
        while processes:
            for ready in wait(list(processes)):
                pipe = cast("Connection", ready)
                made = _received(pipe, processes[pipe])
                if waiting:
                    pipe.send(waiting.popleft())
                else:
                    pipe.send(None)
                    processes.pop(pipe).join()
                yield from made
    finally:
        for left in processes.values():
            left.terminate()
            left.join()


def _received(pipe: Connection, process: BaseProcess) -> Any:
    try:
        made = pipe.recv()
    except EOFError:
        process.join()
        raise ModelError(f"a worker died (exit code {process.exitcode}).") from None
    if isinstance(made, str):
        raise ModelError(f"a worker failed: {made}")
    return made


def _serve(pipe: Connection, make: Callable[[], Callable[[Any], Any]], threads: int) -> None:
    """A process: say that it is ready with an empty result, then do what comes until None does.
    What fails is sent as text, which every error has.
    """
    import torch

    torch.set_num_threads(threads)
    try:
        work = make()
        pipe.send([])
        while (task := pipe.recv()) is not None:
            pipe.send(work(task))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells of it
        pipe.send(f"{type(error).__name__}: {error}")
