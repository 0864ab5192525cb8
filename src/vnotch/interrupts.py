"""Ctrl-C and its kin: what ends a command so that it cleans up, where they must wait, and how none is lost.

An interrupt raises KeyboardInterrupt wherever the main thread is. Python throws away what is raised in a finaliser or a
callback of the interpreter's own, and for a file that is finalised, such as the body of an HTTP answer, without a word.
So that it came is noted too, and whatever waits or goes round looks at that: `check`, `pause`, `wait_until`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_came = threading.Event()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds back Ctrl-C and its kin for a moment, and lets them happen at the end. They come to the main thread alone.

    While a process or a thread is made they must not come: what an interrupt raises in the interpreter's own steps
    round a fork is printed and lost, and what was just made would have no name. In an import they leave a module half
    there with its lock taken, and whoever needs it next waits for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: caught.append(got)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in caught:
            signal.raise_signal(got)


def interrupt_on(*numbers: int) -> None:
    """Makes these signals end this command as Ctrl-C does, so that it cleans up; those that are ignored (nohup) stay
    so."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _came.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raises KeyboardInterrupt where an interrupt has come, whatever became of what it raised then.

    For the loops and the waits of a command, in its main thread. Not for what cleans up after an interrupt: it would be
    ended by the one that it cleans up after.
    """
    if _came.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleeps, with a `check` on both sides."""
    check()
    time.sleep(seconds)
    check()


def wait_until(
    ready: Callable[[], bool], seconds: float, told: Callable[[], None] = lambda: None, every_seconds: float = 0.1
) -> bool:
    """Whether it is so, at once or within that time. `told` says what is waited for, where it is not so at once."""
    deadline = time.monotonic() + seconds
    if ready():
        return True
    if seconds > 0:
        told()
    while time.monotonic() < deadline:
        pause(every_seconds)
        if ready():
            return True
    return False
