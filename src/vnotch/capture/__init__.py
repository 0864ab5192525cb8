"""Packets, counted into flows: in the kernel at an interface, and natively from capture files."""
