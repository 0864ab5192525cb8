"""A folder of pins: names in a bpffs that keep maps and links alive when the process that made them is gone."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from pathlib import Path

from vnotch.capture import libbpf
from vnotch.errors import HostError, InputError, KernelError

PINS = Path("/run/vnotch/bpf")
"""Where maps and links of agents are pinned, a folder for each. It is a mount of its own: /sys/fs/bpf is hidden from
processes that `ip netns exec` starts, and is missing in many containers."""

BPF_FS_MAGIC = 0xCAFE4A11
STANDARD_MOUNT = Path("/sys/fs/bpf")
OUR_MOUNT = b"vnotch"
"""The source of mounts that we made ourselves and take away again."""

PRELOADED = {"maps.debug", "progs.debug"}
"""What a kernel with CONFIG_BPF_PRELOAD puts into each bpffs; it cannot be removed and is nobody's pin."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)  # struct statfs; it begins with a long, f_type
    return _libc().statfs(str(path).encode(), buffer) == 0 and int.from_bytes(buffer.raw[:4], "little") == BPF_FS_MAGIC


class PinFolder:
    """A folder on a bpffs. Where there is none at this place, one is mounted, which needs root.

    Below /sys/fs/bpf that is the usual mount of the whole host; elsewhere the folder itself becomes a mount of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if STANDARD_MOUNT in path.parents and not is_bpffs(STANDARD_MOUNT):
                _mount(STANDARD_MOUNT, b"bpf")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"the pin folder {path} cannot be made: {error.strerror}", _remedy(path)) from error
        if not is_bpffs(path):
            _mount(path, OUR_MOUNT)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            owner = path.stat().st_uid
            raise HostError(f"the pin folder {path} belongs to user {owner}, not to {os.geteuid()}", _remedy(path))

    def get(self, name: str) -> int | None:
        return libbpf.get_pin(self.path / name)

    def pin(self, name: str, fd: int) -> None:
        libbpf.pin(fd, self.path / name)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def rename(self, name: str, new_name: str) -> None:
        (self.path / name).rename(self.path / new_name)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if not entry.is_dir() and entry.name not in PRELOADED)

    def destroy(self) -> None:
        """Removes all pins, the folder, and the mount if it is ours. A mount that root has prepared for a user without
        root stays, empty: that user cannot take it away."""
        for name in self.names():
            self.remove(name)
        if self.path.is_mount():
            if _mount_source(self.path) == OUR_MOUNT and _libc().umount2(str(self.path).encode(), 0):
                number = ctypes.get_errno()
                if number != errno.EPERM or os.geteuid() == 0:
                    raise KernelError(f"unmounting {self.path}", number)
            if self.path.is_mount():
                return
        try:
            self.path.rmdir()
        except OSError as error:
            raise KernelError(f"removing {self.path}", error.errno or 0) from error


def prepare(path: Path, uid: int, gid: int) -> None:
    """Gives a user without root a pin folder: a bpffs mounted at `path`, with what is pinned there, for it alone.

    To be called as root; doing it again changes nothing. What is mounted or made root's way must not be steered by
    others: raises InputError where someone else than root may change the folders above, where `path` is something else
    than an empty folder or a bpffs, or where the pins are a third user's.
    """
    if os.geteuid() != 0:
        raise HostError(f"preparing {path} needs root", "run it as root")
    if not path.is_absolute() or ".." in path.parts:
        raise InputError(f"{path} is no absolute path", f"such as /run/vnotch/bpf/{path.name}")
    for folder in reversed(path.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask is
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != 0 or about.st_mode & 0o022:
            raise InputError(f"{folder} is not a folder that root alone may change", "name a place below /run/vnotch")
        if not about.st_mode & stat.S_IXOTH:
            raise InputError(f"{folder} is closed to users other than root", "name a place below /run/vnotch")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise InputError(f"{path} is not a folder")
    if not is_bpffs(path):
        if any(path.iterdir()):
            raise InputError(f"the folder {path} is not empty and not on a bpffs", "name another place")
        _mount(path, OUR_MOUNT)
    owner = path.stat().st_uid
    if owner not in (0, uid):
        raise InputError(f"the pins in {path} belong to user {owner}", "end that user's agent, or name another place")
    path.chmod(0o700)
    for name in PinFolder(path).names():
        os.chown(path / name, uid, gid, follow_symlinks=False)
    os.chown(path, uid, gid)


def _mount(path: Path, source: bytes) -> None:
    if _libc().mount(source, str(path).encode(), b"bpf", ctypes.c_ulong(0), b"mode=0700"):
        number = ctypes.get_errno()
        raise HostError(f"{path} is on no bpffs and none can be mounted: {os.strerror(number)}", _remedy(path))


def _remedy(path: Path) -> str:
    return f"run as root, or once as root: vnotch prepare --user USER --pin-dir {path}"


def _mount_source(path: Path) -> bytes | None:
    """The source field of the last mount at `path` (proc_pid_mountinfo(5))."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        if fields.split()[4] == os.fsencode(path.resolve()):
            found = rest.split()[1]
    return found


def remove_empty_pin_folders() -> None:
    """The folders above the pins of agents, where no agent's are left."""
    for folder in (PINS, PINS.parent):
        with contextlib.suppress(OSError):  # another agent's pins are there, or it is gone
            folder.rmdir()
