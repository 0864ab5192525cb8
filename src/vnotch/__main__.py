"""Entry point of the command `vnotch` and of `python -m vnotch`.

Nothing is imported before Ctrl-C is taken care of: half a second of imports must not end in a traceback.
"""

import gc
import signal

GARBAGE_OBJECTS = 20_000
"""New objects after which Python looks for cycles. By its own default, 700, a seventh of the time that imports take is
spent walking what they have made."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(GARBAGE_OBJECTS)
    from vnotch.cli import main as run
    from vnotch.interrupts import interrupt_on

    interrupt_on(signal.SIGINT)
    run()


if __name__ == "__main__":
    main()
