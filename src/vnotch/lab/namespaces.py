"""Named network namespaces, as `ip netns` keeps them, and work inside them.

A thread enters a namespace, never the process: whoever calls this stays where it is. Files below /proc/sys/net and
sockets belong to the namespace of the thread that opens or makes them (namespaces(7), network_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from vnotch.errors import HostError, KernelError

RUN = Path("/run/netns")  # ip-netns(8)
_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_EINVAL, _ENOENT = 22, 2

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _call(operation: str, result: int) -> None:
    if result != 0:
        raise KernelError(operation, ctypes.get_errno())


def _setns(descriptor: int, name: str) -> None:
    _call(f"enter network namespace {name}", _libc.setns(descriptor, _CLONE_NEWNET))


def _in_thread(function: Callable[[], T]) -> T:
    """Runs `function` in a thread of its own and hands on what it returns or raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="vnotch-lab-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def inside(name: str, function: Callable[[], T]) -> T:
    """Runs `function` in a thread that is in the namespace `name`. Raises HostError where there is no such one."""

    def run() -> T:
        descriptor = open_namespace(name)
        try:
            _setns(descriptor, name)
        finally:
            os.close(descriptor)
        return function()

    return _in_thread(run)


def inside_new(function: Callable[[], T]) -> T:
    """Runs `function` in a thread in a namespace without a name, which goes when the function returns."""

    def run() -> T:
        _call("create a network namespace", _libc.unshare(_CLONE_NEWNET))
        return function()

    return _in_thread(run)


def open_namespace(name: str) -> int:
    try:
        return os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(f"there is no network namespace {name}", "vnotch lab status shows what is there") from None


def is_namespace(name: str) -> bool:
    """Whether the name stands for a namespace; while one is being made it is an empty file."""
    try:
        return os.stat(RUN / name).st_dev != os.stat(RUN).st_dev
    except OSError:
        return False


class Portal:
    """Makes sockets in namespaces for one thread, which is in its own again when a call returns.

    The thread must be one whose place is nobody else's concern: a process's main thread is not, in a library.
    """

    def __init__(self) -> None:
        self._own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        self._open: dict[str, int] = {}

    def socket(self, name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket that lives in the namespace `name`."""
        if name not in self._open:
            self._open[name] = open_namespace(name)
        _setns(self._open[name], name)
        try:
            made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        finally:
            _setns(self._own, "of the caller")
        return made

    def forget(self, name: str) -> None:
        """Lets go of a namespace that was removed."""
        if (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in (*self._open.values(), self._own):
            os.close(descriptor)
        self._open.clear()


def existing(prefix: str) -> list[str]:
    """Names of namespaces that begin with the prefix and a hyphen, sorted."""
    if not RUN.is_dir():
        return []
    return sorted(entry.name for entry in RUN.iterdir() if entry.name.startswith(f"{prefix}-"))


def create(name: str) -> None:
    """Makes a namespace that has a name and stays when this process ends. Raises KernelError, HostError."""
    _prepare_run()
    path = RUN / name
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    except FileExistsError:
        raise HostError(f"network namespace {name} is there already", f"ip netns delete {name}") from None

    def run() -> None:
        _call("create a network namespace", _libc.unshare(_CLONE_NEWNET))
        bound = _libc.mount(_OWN.encode(), bytes(path), b"none", _MS_BIND, None)
        _call(f"give the network namespace the name {name}", bound)

    try:
        _in_thread(run)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _prepare_run() -> None:
    """As `ip netns add` does: the folder is a shared mount, so that every mount namespace sees what is added."""
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    run = bytes(RUN)
    if _libc.mount(b"", run, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    if ctypes.get_errno() != _EINVAL:
        raise KernelError(f"mount {RUN}", ctypes.get_errno())
    _call(f"mount {RUN}", _libc.mount(run, run, b"none", _MS_BIND | _MS_REC, None))
    _call(f"mount {RUN}", _libc.mount(b"", run, b"none", _MS_SHARED | _MS_REC, None))


def remove(name: str) -> None:
    """Takes the name away; the namespace ends with the last process in it. No error where there is none."""
    path = RUN / name
    if _libc.umount2(bytes(path), _MNT_DETACH) != 0 and ctypes.get_errno() not in (_EINVAL, _ENOENT):
        raise KernelError(f"unmount {path}", ctypes.get_errno())
    path.unlink(missing_ok=True)


def processes(name: str) -> list[int]:
    """Ids of the processes that are in the namespace."""
    try:
        wanted = os.stat(RUN / name).st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.stat(entry / "ns/net").st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    return sorted(found)


def write_sysctls(settings: Mapping[str, str | int]) -> None:
    """Writes sysctls of the namespace that the calling thread is in; keys are paths below net, `ipv4/ip_forward`."""
    for key, value in settings.items():
        path = Path("/proc/sys/net") / key
        try:
            path.write_text(f"{value}\n")
        except OSError as error:
            raise KernelError(f"set {path} inside a namespace", error.errno or 0) from error
