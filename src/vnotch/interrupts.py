"""Ctrl-C and its kin: what ends a command so that it cleans up, and where they must wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    raise KeyboardInterrupt
