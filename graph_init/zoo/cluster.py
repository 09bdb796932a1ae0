"""The machines that work: this one, or those of a scheduler of dask.distributed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from graph_init.errors import GraphInitError, UsageError
from graph_init.output import debug_log
from graph_init.version import __version__
from graph_init.zoo import extra, node

#: Seconds in which a scheduler must answer, and have a worker.
_PATIENCE = 30
_HERE = "127.0.0.1:0"
#: What dask remembers of thousands of models would be most of the runner's memory.
_FORGETFUL = {
    "distributed.admin.log-length": 100,
    "distributed.admin.low-level-log-length": 100,
    "distributed.worker.profile.enabled": False,
}


def cores() -> int:
    """Those that this process may use."""
    return int(extra.module("dask.system").CPU_COUNT)


@contextlib.contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A client of ``scheduler``, or of a cluster in this process with ``workers`` threads.

    Threads are enough: every model has a process of its own, and the threads wait for these.
    """
    distributed = extra.module("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"--scheduler {scheduler} does not answer: {error}") from error
        _quiet(client)
        with client:
            _check(client, scheduler)
            yield client
        return
    with extra.module("dask").config.set(_FORGETFUL):
        cluster = distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            memory_limit=0,
            # Its pages cannot be left out; these are for this machine alone.
            dashboard_address=_HERE,
            worker_dashboard_address=_HERE,
            silence_logs=logging.CRITICAL,
        )
        try:
            with cluster, distributed.Client(cluster, set_as_default=False) as client:
                _quiet(client)
                yield client
        finally:
            node.close()


def _quiet(client: Any) -> None:
    """What fails between the cluster's own tasks and nobody waits for goes to the debug log.

    On a busy machine a connection that is being closed can time out; asyncio would print that.
    """

    def handler(loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            debug_log.write(error)

    client.loop.asyncio_loop.set_exception_handler(handler)


def slots(client: Any) -> int:
    """Models that can be at work at a time."""
    return int(sum(client.nthreads().values()))


def _check(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError as error:
        raise UsageError(f"--scheduler {scheduler} has no workers") from error
    try:
        versions = client.run(node.version)
    except Exception as error:
        raise GraphInitError(
            f"a worker of {scheduler} cannot use graph-init ({error}); install "
            f"'graph-init[cpu,zoo]=={__version__}' there"
        ) from error
    for worker, version in versions.items():
        if version != __version__:
            raise UsageError(
                f"worker {worker} has graph-init {version}, and this is {__version__}: the same "
                "models would come out differently"
            )
