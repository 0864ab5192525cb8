"""Which threads go first where they compete for a processor."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

_NICE = 10


def give_way() -> None:
    """Puts this thread behind the process's others: what takes records in has its time, a reader waits for each page.

    On Linux a nice value is a thread's own (sched(7)), and anyone may raise it. For a thread's whole life: only root
    may lower it again. One that is nicer already stays so.
    """
    with suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))
