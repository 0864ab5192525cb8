"""Ctrl-C and its kin: none is lost, wherever it lands. Each case is a process, whose main thread gets the signals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.running import environment
from vnotch import interrupts

BEGIN = """
import ctypes, io, random, signal, sys, time, weakref
from vnotch.interrupts import check, interrupt_on, pause, uninterrupted, wait_until
interrupt_on(signal.SIGINT, signal.SIGALRM)

class Body(io.IOBase):  # as http.client's and urllib3's
    def __init__(self, seconds=0.0, ask=False):
        self.seconds, self.ask = seconds, ask
    def close(self):
        if self.ask:
            signal.raise_signal(signal.SIGINT)
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        super().close()

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Referred:
    pass

def in_a_file_that_is_finalised():
    Body(ask=True)

def in_a_finaliser():
    Finalised()

def in_a_weak_reference():
    referred = Referred()
    reference = weakref.ref(referred, lambda _: signal.raise_signal(signal.SIGINT))
    del referred

def in_a_callback_from_c():
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(2, 1)
    called = kind(lambda a, b: signal.raise_signal(signal.SIGINT) or 0)
    ctypes.CDLL(None).qsort(numbers, 2, 4, called)
"""

PLACES = ["in_a_file_that_is_finalised", "in_a_finaliser", "in_a_weak_reference", "in_a_callback_from_c"]
WAITS = ["check()", "pause(60)", "wait_until(lambda: False, 60)"]


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        capture_output=True,
        text=True,
        timeout=50,
        env=environment(),
        check=False,
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wait", WAITS)
def test_an_interrupt_that_python_throws_away_is_raised_by_the_next_wait(place: str, wait: str) -> None:
    done = run(f"""
{place}()
print("thrown away")  # else this case shows nothing
try:
    {wait}
except KeyboardInterrupt:
    print("raised")
""")
    assert done.stdout.split("\n") == ["thrown away", "raised", ""], done.stderr


def test_of_many_interrupts_at_any_moment_none_is_lost() -> None:
    done = run("""
from vnotch import interrupts
random.seed(20)
caught = noted = 0
for _ in range(300):
    interrupts._came.clear()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003))
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            Body(seconds=0.0005)
            before = interrupts._came.is_set()
            pause(0.0005)
    except KeyboardInterrupt:
        caught += 1
        noted += before
print(caught, noted > 10)
""")
    assert done.stdout.split() == ["300", "True"], done.stderr


def test_an_interrupt_waits_for_the_end_of_what_must_not_be_interrupted() -> None:
    done = run("""
try:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        print("held")
    print("not raised")
except KeyboardInterrupt:
    print("raised")
""")
    assert done.stdout.split() == ["held", "raised"], done.stderr


def test_what_is_ignored_stays_so() -> None:
    done = run("""
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
interrupt_on(signal.SIGHUP)
signal.raise_signal(signal.SIGHUP)
pause(0)
print("goes on")
""")
    assert done.stdout == "goes on\n", done.stderr


def test_other_threads_are_not_interrupted() -> None:
    done = run("""
import threading
Body(ask=True)
worker = threading.Thread(target=lambda: (pause(0), print("goes on")))
worker.start(); worker.join()
""")
    assert done.stdout == "goes on\n", done.stderr


def test_a_wait_says_what_for_once_and_only_where_it_waits() -> None:
    said: list[str] = []
    answers = iter([False, False, True])
    assert interrupts.wait_until(lambda: True, 60, lambda: said.append("at once"))
    assert not interrupts.wait_until(lambda: False, 0, lambda: said.append("no time"))
    assert interrupts.wait_until(lambda: next(answers), 60, lambda: said.append("server"), every_seconds=0.001)
    assert said == ["server"]


def test_a_wait_ends_at_its_time() -> None:
    assert not interrupts.wait_until(lambda: False, 0.05, every_seconds=0.01)


def test_the_command_takes_care_of_ctrl_c_itself() -> None:
    done = run("""
import vnotch.cli, vnotch.__main__
def command():
    in_a_file_that_is_finalised()
    check()
    print("goes on")
vnotch.cli.app.command("wait-here")(command)
sys.argv = ["vnotch", "wait-here"]
signal.signal(signal.SIGINT, signal.SIG_DFL)
vnotch.__main__.main()
""")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
