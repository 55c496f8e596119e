"""Processes of tests: one that is killed or dies by itself, and several that talk through gloo.

Imports are paid once: a server process imports torch and this package, and every process is a fork of it. The process
of the tests itself is never forked: it has threads of torch, and a fork that waits for one of them hangs for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 270.0  # that a test of several processes may take, and that one of them may wait for another
PRELOAD = [
    "pytest",
    "rich.console",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "cogvideox.parallel.context",
    "cogvideox.parallel.inference",
]
PRELOAD += [
    "cogvideox.checkpoints",
    "cogvideox.generation.pipeline",
    "cogvideox.training.loop",
    "cogvideox.training.tasks.vae",
]


def server() -> Any:
    """The multiprocessing context whose processes are forks of the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def exit_code(
    work: Callable[..., Any],
    *args: Any,
    kill: int | None = None,
    after: float = 0.0,
    seconds: float = SECONDS,
) -> int:
    """Run ``work(*args)``, a function of a module, quietly in a process of its own, and return how it ended.

    0, the code of its SystemExit, 1 for another error, or minus the signal. ``kill``: a signal that it gets ``after``
    seconds of work, if it is not at its end by then.
    """
    context = server()
    began, here = context.Pipe(duplex=False)
    process = context.Process(target=_quietly, args=(here, work, args))
    process.start()
    here.close()
    try:
        assert began.poll(seconds) and began.recv() is None, "it did not begin"
        if kill is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, kill)
        process.join(seconds)
        assert process.exitcode is not None, f"not at its end after {seconds} seconds"
        return process.exitcode
    finally:
        process.kill()


def _quietly(began: Any, work: Callable[..., Any], args: tuple) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    began.send(None)
    work(*args)


def together(ranks: int, work: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> list[Any]:
    """What ``work(*args)`` returns on each of ``ranks`` processes that form one group; their errors are raised."""
    context = server()
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes = [
            context.Process(target=_rank, args=(rank, ranks, store, answers, work, args), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            found = dict(_answer(answers, processes, seconds) for _ in processes)
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
    return [found[rank] for rank in range(ranks)]


def _answer(answers: Any, processes: list[Any], seconds: float) -> tuple[int, Any]:
    """The next answer of any rank; a rank that died before it could answer is noticed at once."""
    end = time.monotonic() + seconds
    while True:
        try:
            rank, value, error = answers.get(timeout=2)
        except queue.Empty:
            dead = [n for n, process in enumerate(processes) if process.exitcode]
            assert not dead, (
                f"ranks {dead} died without an answer (python -m pytest, so that they can import tests?)"
            )
            assert time.monotonic() < end, f"no answer in {seconds} seconds"
            continue
        assert error is None, f"rank {rank}:\n{error}"
        return rank, value


def _rank(rank: int, ranks: int, store: str, answers: Any, work: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=SECONDS),
        )
        answers.put((rank, work(*args), None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
        raise
