"""Entry point of the command `vnotch` and of `python -m vnotch`.

Nothing is imported before Ctrl-C is taken care of: half a second of imports must not end in a traceback.
"""

import signal


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vnotch.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
