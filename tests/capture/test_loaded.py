"""Loading: what a host lacks for it is said in one line, and nothing is left of what failed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vnotch.capture import libbpf, loaded
from vnotch.capture.kernel import Datapath
from vnotch.errors import HostError

pytestmark = pytest.mark.root


def test_without_privilege_one_line_says_what_to_do() -> None:
    script = (
        "from vnotch.capture.kernel import Datapath\nfrom vnotch.errors import HostError\n"
        "try:\n    Datapath.open()\nexcept HostError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (
        "capturing packets needs more privilege (run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
    )


def test_without_libbpf_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(libbpf, "_library", None)
    monkeypatch.setattr(libbpf.ctypes, "CDLL", missing)
    with pytest.raises(HostError, match=r"sudo apt install libbpf1"):
        libbpf.library()


def test_without_the_compiled_object_the_build_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaded, "OBJECT", tmp_path / "vnotch.bpf.o")
    with pytest.raises(HostError, match=r"python hatch_build.py"):
        Datapath.open()
    (tmp_path / "vnotch.bpf.o").write_bytes(b"not an object")
    with pytest.raises(HostError, match=r"is not a BPF object"):
        Datapath.open()


def test_the_verifier_has_steps_left() -> None:
    """It gives up after a million (BPF_COMPLEXITY_LIMIT_INSNS), and each kernel release counts differently."""
    with Datapath.open() as datapath:
        assert datapath._sight.firewall
        for program in (*datapath._programs, datapath._sight.firewall.program):
            lines = Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
            (walked,) = [int(line.split()[1]) for line in lines if line.startswith("verified_insns:")]
            assert 0 < walked < 200_000


def test_what_the_verifier_says_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = loaded.OBJECT.parents[4] / "bpf" / "vnotch.bpf.c"
    broken = text.read_text().replace("c->bytes += p->bytes;", "c->bytes += p->bytes; ((u64 *)c)[2] = 1;")
    assert broken != text.read_text()
    (tmp_path / "broken.c").write_text(broken)
    arguments = ["cc", "-target", "bpfel-freestanding", "-mcpu=v3", "-O2", "-g", "-c"]
    output = tmp_path / "broken.o"
    command = [sys.executable, "-m", "ziglang", *arguments, f"-I{text.parent}", str(tmp_path / "broken.c")]
    subprocess.run([*command, "-o", str(output)], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    monkeypatch.setattr(loaded, "OBJECT", output)
    with pytest.raises(HostError, match=r"refused the eBPF program: .*invalid access to map value"):
        Datapath.open()


def test_a_place_for_pins_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"pin folder .* cannot be made"):
        Datapath.open(pin_dir=tmp_path / "file" / "pins")


def test_nothing_is_left_of_a_failed_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fds, threads = os.listdir("/proc/self/fd"), threading.active_count()
    monkeypatch.setattr(loaded, "OBJECT", tmp_path / "vnotch.bpf.o")
    for _ in range(3):
        with pytest.raises(HostError):
            Datapath.open()
    assert len(os.listdir("/proc/self/fd")) == len(fds)
    assert threading.active_count() == threads
