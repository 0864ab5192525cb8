"""`python -m vnotch` is the same as the command `vnotch`."""

from vnotch.cli import main

main()
