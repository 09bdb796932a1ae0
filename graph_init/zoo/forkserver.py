"""A process that has everything imported and forks a child for each model.

Importing takes seconds, forking milliseconds. It never computes itself, so that it has no threads
that a fork would lose. Its standard input is a socket, over which it is given another one for each
model: the child reads its task there and writes what it has to say; when it has ended, the
forkserver writes how, and closes. The other side stops a child by shutting its own direction down.
When standard input closes, everything ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

from graph_init.zoo.messages import Exited, decoded_task, encoded

#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def serve(control: socket.socket) -> None:
    """Fork a child for every socket that comes over ``control``, until it closes."""
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, socket.socket] = {}
    poll = select.poll()
    hung_up = getattr(select, "POLLRDHUP", 0) | select.POLLHUP
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page it looks at
    while True:
        for at, _ in poll.poll():
            if at == control.fileno():
                _, passed, _, _ = socket.recv_fds(control, 1, 1)
                if not passed:
                    _kill(children)
                    return
                connection = socket.socket(fileno=passed[0])
                mine = os.getpid()
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for other in (control, wake, waker, *children.values()):
                        other.close()
                    _child(connection, mine)
                children[pid] = connection
                poll.register(connection, hung_up)
            elif at == wake.fileno():
                with contextlib.suppress(BlockingIOError):
                    while wake.recv(4096):
                        pass
            else:
                for pid, connection in children.items():
                    if connection.fileno() == at:
                        os.kill(pid, signal.SIGKILL)
                        poll.unregister(connection)  # once is enough; it is closed below
                        break
        _reap(children, poll)


def _reap(children: dict[int, socket.socket], poll: select.poll) -> None:
    while children:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        connection = children.pop(pid)
        with contextlib.suppress(KeyError):
            poll.unregister(connection)
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        ended = Exited(os.waitstatus_to_exitcode(status), usage.ru_maxrss * unit)
        with contextlib.suppress(OSError):
            connection.sendall(encoded(ended))
        connection.close()


def _kill(children: dict[int, socket.socket]) -> None:
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _child(connection: socket.socket, forkserver: int) -> None:
    """Work on what the socket says, and leave without a look back.

    The process ``forkserver`` has forked it, and ends it with itself, however it ends.
    """
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != forkserver:  # it had ended before it could be asked for that
                os._exit(status)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from graph_init.zoo import job

        with connection.makefile("rwb") as stream:
            job.converse(decoded_task(stream.readline()), stream)
        status = 0
    finally:
        os._exit(status)


def main(protocols: Sequence[str]) -> None:
    """Import what the children need, and serve; fsspec's file systems for ``protocols`` too."""
    control = socket.socket(fileno=os.dup(0))
    # What the children work with, imported before there are any.
    from graph_init.engine.runtime import onnxruntime
    from graph_init.errors import GraphInitError
    from graph_init.zoo import (
        extra,
        job,  # noqa: F401
    )

    with contextlib.suppress(GraphInitError):  # each child meets it again, and says so
        onnxruntime()
    for protocol in protocols:
        with contextlib.suppress(ImportError, ValueError):
            extra.module("fsspec").get_filesystem_class(protocol)
    serve(control)
