"""A flood round processes that capture with pins and a journal (`capturing.py`) and are killed, one after another."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from links import SLOT, Pair
from traffic import start_flood

SOURCES = Path(__file__).resolve().parents[2] / "src"
KILLS_MIN = 4


def start_capturing(pair: Pair, pin_dir: Path, mode: str, journal: Path) -> subprocess.Popen[str]:
    arguments = [pair.host, str(pin_dir), mode, pair.host_device, str(SLOT), str(journal)]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("capturing.py")), *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def killed_under_load(pair: Pair, pin_dir: Path, mode: str, journal: Path, count: int, kinds: int) -> list[list[int]]:
    """Sends `count` packets of `kinds` flows and kills meanwhile, at moments that the mode alone decides; at the end
    nobody captures. -> the journal's lines."""
    generator = random.Random(mode)
    journal.touch()
    process = start_capturing(pair, pin_dir, mode, journal)
    sender = start_flood(pair, count, kinds)
    kills = 0
    while sender.poll() is None or kills < KILLS_MIN:
        time.sleep(generator.uniform(0.05, 0.4))
        kill(process)
        kills += 1
        process = start_capturing(pair, pin_dir, mode, journal)
    pair.settle()
    kill(process)
    return [[int(word) for word in text.split()] for text in journal.read_text().splitlines()]
