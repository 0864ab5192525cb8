"""libbpf.so.1 by ctypes: a private part of capture/kernel.py.

Only what the datapath needs, in Python's terms: file descriptors are ints, a failure is a KernelError with the kernel's
errno, arrays are numpy's. libbpf prints what it does and why it fails; that text is kept and shown on failure alone.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import deque
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from vnotch.errors import HostError, KernelError

MAP_TYPE_HASH = 1
MAP_TYPE_ARRAY = 2

UPDATE_ANY = 0

ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47
LINK_BEFORE = 1 << 3
"""BPF_F_BEFORE without a neighbour: before all others. A program ahead of ours could end the chain uncounted."""

LINK_TYPE_TCX = 11

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

LOG_LINES = 200
LOG_BYTES = 1 << 24
DEBUG = 2

Array = npt.NDArray[Any]


class _LinkCreateOpts(ctypes.Structure):
    """struct bpf_link_create_opts up to `flags`; libbpf reads `sz` bytes."""

    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("pad", ctypes.c_uint32))


class _TestRunOpts(ctypes.Structure):
    """struct bpf_test_run_opts (libbpf 1.1: bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info with its tcx part; `ifindex` is 0 once the device is gone."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
    )


class ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info up to the run statistics."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),  # a hash of its instructions
        ("before", ctypes.c_uint8 * 176),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
    )


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_log: deque[str] = deque(maxlen=LOG_LINES)
_library: ctypes.CDLL | None = None
_keep: list[Any] = []


def library() -> ctypes.CDLL:
    """libbpf, loaded once. Raises HostError where it is missing."""
    global _library
    if _library is None:
        try:
            loaded = ctypes.CDLL("libbpf.so.1")
        except OSError as error:
            raise HostError("libbpf.so.1 is not installed", "sudo apt install libbpf1") from error
        for name in ("bpf_object__open_file", "bpf_object__find_map_by_name", "bpf_object__find_program_by_name"):
            getattr(loaded, name).restype = ctypes.c_void_p
        libc = ctypes.CDLL(None)

        # A verifier's log is one message of up to 16 MB; pages that are not written cost nothing.
        buffer = mmap.mmap(-1, LOG_BYTES)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))

        def keep_line(level: int, template: bytes, arguments: int) -> int:
            if level < DEBUG:
                # A va_list is handed over as a pointer on x86_64 and on aarch64, which vsnprintf takes as it is.
                libc.vsnprintf(
                    ctypes.c_void_p(address), ctypes.c_size_t(LOG_BYTES), template, ctypes.c_void_p(arguments)
                )
                _log.extend(ctypes.string_at(address).decode(errors="replace").splitlines())
            return 0

        callback = _PRINT(keep_line)
        _keep.extend((callback, buffer))
        loaded.libbpf_set_print(callback)
        _library = loaded
    return _library


def last_log(lines: int = 4) -> str:
    """The end of what libbpf said, in one line, for a message about a failure."""
    told = [line.strip() for line in _log if line.strip()]
    return "; ".join(told[-lines:])


def check(result: int, operation: str, remedy: str | None = None) -> int:
    """libbpf 1.x answers -errno on failure."""
    if result < 0:
        raise KernelError(operation, -result, remedy)
    return result


def possible_cpus() -> int:
    return check(library().libbpf_num_possible_cpus(), "counting CPUs")


class Object:
    """A BPF object file: its maps may be sized or replaced by existing ones before `load`."""

    def __init__(self, path: Path) -> None:
        _log.clear()
        self._lib = library()
        self._path = path
        self._object = self._lib.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise HostError(
                f"{path} is not a BPF object: {last_log()}", "build it again: python hatch_build.py --force"
            )

    def _map(self, name: str) -> ctypes.c_void_p:
        found = self._lib.bpf_object__find_map_by_name(ctypes.c_void_p(self._object), name.encode())
        assert found, f"{self._path} has no map {name}"
        return ctypes.c_void_p(found)

    def set_max_entries(self, name: str, entries: int) -> None:
        check(self._lib.bpf_map__set_max_entries(self._map(name), ctypes.c_uint32(entries)), f"sizing map {name}")

    def reuse(self, name: str, fd: int) -> None:
        """Let the programs use the existing map `fd` (which stays the caller's to close) in place of their own."""
        check(self._lib.bpf_map__reuse_fd(self._map(name), fd), f"taking over map {name}")

    def set_constants(self, values: bytes) -> None:
        """The programs' .rodata section."""
        result = self._lib.bpf_map__set_initial_value(self._map(".rodata"), values, ctypes.c_size_t(len(values)))
        check(result, "setting .rodata")

    def load(self) -> None:
        """Raises HostError with the end of the verifier's log, KernelError for everything else."""
        _log.clear()
        result = self._lib.bpf_object__load(ctypes.c_void_p(self._object))
        if result == 0:
            return
        if any("END PROG LOAD LOG" in line for line in _log):
            told = [
                line for line in _log if "PROG LOAD LOG" not in line and not line.startswith(("processed ", "libbpf:"))
            ]
            raise HostError(
                f"the kernel ({os.uname().release}) refused the eBPF program: {'; '.join(told[-3:])}",
                "vnotch needs Linux 5.17 or later; Debian 12 and Ubuntu 24.04 have it",
            )
        raise KernelError(f"loading the eBPF program ({last_log(2)})", -result, _remedy(-result))

    def map_fd(self, name: str) -> int:
        """A file descriptor of its own for a map; the caller closes it."""
        return os.dup(check(self._lib.bpf_map__fd(self._map(name)), f"map {name}"))

    def program_fd(self, name: str) -> int:
        found = self._lib.bpf_object__find_program_by_name(ctypes.c_void_p(self._object), name.encode())
        assert found, f"{self._path} has no program {name}"
        return os.dup(check(self._lib.bpf_program__fd(ctypes.c_void_p(found)), f"program {name}"))

    def close(self) -> None:
        if self._object:
            self._lib.bpf_object__close(ctypes.c_void_p(self._object))
            self._object = None


def _remedy(number: int) -> str | None:
    if number == errno.EPERM:
        return "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    if number == errno.ENOSYS:
        return "this kernel has no bpf(2): CONFIG_BPF_SYSCALL is needed"
    if number == errno.ENOMEM:
        return "free memory or set fewer flows per map"
    return None


# ---- Maps ------------------------------------------------------------------------------------------------------------


def map_create(kind: int, name: str, key_size: int, value_size: int, entries: int) -> int:
    made = library().bpf_map_create(kind, name.encode(), key_size, value_size, entries, None)
    return check(made, f"creating map {name}", _remedy(-made))


def map_info(fd: int) -> MapInfo:
    return _info(fd, MapInfo())


def link_info(fd: int) -> LinkInfo:
    return _info(fd, LinkInfo())


def program_info(fd: int) -> ProgramInfo:
    return _info(fd, ProgramInfo())


Info = TypeVar("Info", MapInfo, LinkInfo, ProgramInfo)


def _info(fd: int, info: Info) -> Info:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "BPF_OBJ_GET_INFO_BY_FD")
    return info


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value, None where there is none. Of a per-CPU map `value_size` covers all CPUs."""
    value = ctypes.create_string_buffer(value_size)
    result = library().bpf_map_lookup_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    check(result, "BPF_MAP_LOOKUP_ELEM")
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = UPDATE_ANY) -> None:
    check(library().bpf_map_update_elem(fd, key, value, ctypes.c_uint64(flags)), "BPF_MAP_UPDATE_ELEM")


def map_delete(fd: int, key: bytes) -> bool:
    """Whether there was such an entry."""
    result = library().bpf_map_delete_elem(fd, key)
    if result == -errno.ENOENT:
        return False
    check(result, "BPF_MAP_DELETE_ELEM")
    return True


def lookup_batch(fd: int, keys: Array, values: Array) -> int:
    """Read a map from its beginning into arrays whose first dimension is the room; returns the number of entries read.

    Exact for a hash that nobody writes to and for arrays, whose entries come in order. Room for all entries avoids
    ENOSPC, which a hash answers when one bucket does not fit.
    """
    return _batch("bpf_map_lookup_batch", fd, keys, values)


def take_batch(fd: int, keys: Array, values: Array) -> int:
    """As `lookup_batch`, and removes what it reads. Not exact while programs write to the map."""
    return _batch("bpf_map_lookup_and_delete_batch", fd, keys, values)


def _batch(name: str, fd: int, keys: Array, values: Array) -> int:
    call = getattr(library(), name)
    room, filled = len(keys), 0
    position = ctypes.create_string_buffer(64)  # u32 for a hash, a key for an array
    first = True
    while filled < room:
        count = ctypes.c_uint32(room - filled)
        result = call(
            fd,
            None if first else position,
            position,
            ctypes.c_void_p(keys[filled:].ctypes.data),
            ctypes.c_void_p(values[filled:].ctypes.data),
            ctypes.byref(count),
            None,
        )
        if result == -errno.EINTR:
            continue
        if result < 0 and result != -errno.ENOENT:
            check(result, name)
        filled += count.value
        first = False
        if result == -errno.ENOENT:  # the end; the last count is valid
            break
    return filled


def delete_batch(fd: int, keys: Array) -> int:
    """Remove entries by key, those that are gone already are passed over; returns the number removed."""
    removed = done = 0
    while done < len(keys):
        count = ctypes.c_uint32(len(keys) - done)
        pointer = ctypes.c_void_p(keys[done:].ctypes.data)
        result = library().bpf_map_delete_batch(fd, pointer, ctypes.byref(count), None)
        if result < 0 and result != -errno.ENOENT:
            check(result, "BPF_MAP_DELETE_BATCH")
        removed += count.value
        done += count.value + (1 if result == -errno.ENOENT else 0)
    return removed


def update_batch(fd: int, keys: Array, values: Array) -> None:
    count = ctypes.c_uint32(len(keys))
    result = library().bpf_map_update_batch(
        fd, ctypes.c_void_p(keys.ctypes.data), ctypes.c_void_p(values.ctypes.data), ctypes.byref(count), None
    )
    check(result, "BPF_MAP_UPDATE_BATCH")


# ---- Pins, links, programs -------------------------------------------------------------------------------------------


def pin(fd: int, path: Path) -> None:
    check(library().bpf_obj_pin(fd, str(path).encode()), f"pinning {path}")


def get_pin(path: Path) -> int | None:
    """A file descriptor for what is pinned at `path`, None where nothing is."""
    fd: int = library().bpf_obj_get(str(path).encode())
    if fd == -errno.ENOENT:
        return None
    return check(fd, f"opening the pin {path}", _remedy(-fd))


def link_create(program_fd: int, ifindex: int, attach_type: int, operation: str) -> int:
    """Attach by tcx, before all others. `ifindex` is looked up in the calling thread's network namespace."""
    options = _LinkCreateOpts(ctypes.sizeof(_LinkCreateOpts), LINK_BEFORE, 0)
    return check(library().bpf_link_create(program_fd, ifindex, attach_type, ctypes.byref(options)), operation)


def link_update(link_fd: int, program_fd: int) -> int:
    """Replace the program of a link without a gap. Returns 0 or an errno: ENOLINK where the device is gone."""
    result: int = library().bpf_link_update(link_fd, program_fd, None)
    return -result


def raw_tracepoint_open(program_fd: int, name: str) -> int:
    """Attach to a tracepoint of the whole host; -> the link."""
    made = library().bpf_raw_tracepoint_open(name.encode(), program_fd)
    return check(made, f"attaching to the tracepoint {name}", _remedy(-made))


def kernel_has_enumerator(enum: str, name: str) -> bool | None:
    """Whether the running kernel's BTF has this value of an enumeration; None where the kernel has no BTF."""
    text = KERNEL_BTF.read_bytes() if KERNEL_BTF.exists() else None
    # The strings of BTF are one table of NUL-terminated names; both are names that nothing else has.
    return None if text is None else all(b"\0" + word.encode() + b"\0" in text for word in (enum, name))


def has_tcx(program_fd: int) -> bool:
    """Whether this kernel attaches by tcx (6.6 and later), asked with an interface that cannot be there."""
    options = _LinkCreateOpts(ctypes.sizeof(_LinkCreateOpts), 0, 0)
    result = library().bpf_link_create(program_fd, 0x7FFFFFFF, ATTACH_TCX_INGRESS, ctypes.byref(options))
    if result >= 0:  # it was there, after all
        os.close(result)
        return True
    return bool(result == -errno.ENODEV)


def run_program(program_fd: int, packet: bytes, context: bytes | None = None, repeat: int = 1) -> tuple[int, int]:
    """BPF_PROG_TEST_RUN: (return value, ns a run)."""
    data = ctypes.create_string_buffer(packet, len(packet))
    options = _TestRunOpts(sz=ctypes.sizeof(_TestRunOpts), repeat=repeat)
    options.data_in, options.data_size_in = ctypes.addressof(data), len(packet)
    if context is not None:
        held = ctypes.create_string_buffer(context, len(context))
        options.ctx_in, options.ctx_size_in = ctypes.addressof(held), len(context)
    check(library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options)), "BPF_PROG_TEST_RUN")
    return ctypes.c_int32(options.retval).value, options.duration
