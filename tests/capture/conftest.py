"""Fixtures: a pair of namespaces, and the datapath on the host's side of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from links import SLOT, Pair
from routed import Routed

from vnotch.capture.kernel import Datapath


@pytest.fixture(scope="module")
def routed_namespaces() -> Iterator[Routed]:
    made = Routed()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def routed(routed_namespaces: Routed) -> Iterator[Routed]:
    """Without rules at first."""
    yield routed_namespaces
    routed_namespaces.nft("flush ruleset")


@pytest.fixture
def datapath(pair: Pair, mode: str) -> Iterator[Datapath]:
    """Attached to the pair as slot SLOT."""
    opened = Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=8192)
    try:
        opened.set_interface(SLOT)
        opened.attach(pair.host_device, SLOT)
        yield opened
    finally:
        opened.destroy()


@pytest.fixture(scope="session")
def tap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tap is built, once."""
    return tmp_path_factory.mktemp("tap")


@pytest.fixture
def pin_dir() -> Iterator[Path]:
    """An empty place for pins, which is gone afterwards with all that is pinned there."""
    folder = Path(tempfile.mkdtemp(prefix="vntest-pins-"))
    path = folder / "bpf"
    try:
        yield path
    finally:
        for _ in range(3):
            subprocess.run(["umount", str(path)], check=False, capture_output=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
