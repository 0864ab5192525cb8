"""Enforcement that nobody confirms ends, whoever is away meanwhile; and devices that change under capture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from world import SECOND, World, flow_log, interface

from vnotch.agent.interfaces import Interfaces
from vnotch.agent.trials import UNCONFIRMED
from vnotch.inventory import Interface

SECONDS = 60


def on_trial(until_ms: int = 1) -> Interface:
    return replace(interface(5), enforce=True, enforce_seconds=SECONDS, enforce_until_ms=until_ms)


class Host:
    """One agent's interfaces, the clock that nobody sets and the time."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.world.kernel.devices.add("veth5")
        self.seconds = 1000.0
        self.path = folder / "slots.json"
        self.start()

    def start(self) -> None:
        from fake_datapath import FakeDatapath

        datapath = FakeDatapath(self.world.kernel)
        self.interfaces = Interfaces(self.path, datapath, lambda: self.seconds, lambda: self.world.time_ns)

    def tell(self, *wanted: Interface) -> None:
        self.interfaces.apply(wanted, {}, 1)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds
        self.world.time_ns += int(seconds * SECOND)
        self.interfaces.end_trials()

    @property
    def enforces(self) -> bool:
        return bool(self.world.kernel.values[0]["enforce"])

    @property
    def end_seconds(self) -> float | None:
        """When the kernel ends the enforcement by itself, by the clock that nobody sets."""
        end_ns = self.world.kernel.values[0]["enforce_until_ns"]
        return None if end_ns is None else end_ns / 1e9

    @property
    def message(self) -> str | None:
        message: str | None = self.interfaces.states()[0]["message"]
        return message


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_trial_ends_by_itself(host: Host) -> None:
    host.tell(on_trial())
    assert host.enforces
    assert host.interfaces.trial_seconds == SECONDS
    assert host.end_seconds == host.seconds + SECONDS
    host.passes(SECONDS - 1)
    assert host.enforces
    host.passes(1)
    assert not host.enforces
    assert host.message == UNCONFIRMED
    assert host.interfaces.trial_seconds is None
    host.tell(on_trial())
    assert not host.enforces, "the same trial, told once more, is over"


def test_a_trial_that_is_confirmed_stays(host: Host) -> None:
    host.tell(on_trial())
    host.passes(30)
    host.tell(replace(interface(5), enforce=True))
    assert host.end_seconds is None
    host.passes(SECONDS)
    assert host.enforces
    assert host.message is None


def test_a_second_trial_is_a_new_one(host: Host) -> None:
    host.tell(on_trial(1))
    host.passes(SECONDS)
    host.tell(on_trial(2))
    assert host.enforces
    assert host.message is None
    host.passes(SECONDS)
    assert not host.enforces


def test_a_restart_goes_on_with_what_is_left_of_it(host: Host) -> None:
    host.tell(on_trial())
    host.passes(20)
    host.seconds = 7.0  # another boot
    host.start()
    host.tell(on_trial())
    assert host.enforces
    assert host.end_seconds == 7 + 40
    host.tell(on_trial())
    assert host.end_seconds == 7 + 40, "told once more"
    host.passes(39)
    assert host.enforces
    host.passes(1)
    assert not host.enforces


def test_a_restart_after_its_end_does_not_enforce_for_a_moment(host: Host) -> None:
    host.tell(on_trial())
    host.world.time_ns += 61 * SECOND
    host.seconds = 5.0  # another boot
    host.start()
    host.tell(on_trial())
    assert not host.enforces


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_clock_that_is_set_lengthens_no_trial(host: Host, step: int) -> None:
    host.tell(on_trial())
    host.world.time_ns += step * SECOND
    host.passes(30)
    host.tell(on_trial())
    host.start()
    host.tell(on_trial())
    host.passes(SECONDS)
    assert not host.enforces


def test_an_interface_that_goes_takes_its_trial_along(host: Host) -> None:
    host.tell(on_trial())
    host.tell()
    host.passes(SECONDS)
    host.tell(replace(interface(5), enforce=True))
    assert host.enforces


# Devices that change -------------------------------------------------------------------------------------------------


def test_a_device_that_is_renamed_is_captured_on_under_the_same_interface(host: Host) -> None:
    host.tell(interface(5))
    host.world.kernel.rename("veth5", "lan0")
    host.interfaces.renamed("veth5", "lan0")
    [state] = host.interfaces.states()
    assert (state["state"], state["message"]) == ("attached", "veth5 is named lan0 now")
    assert host.world.kernel.packet("lan0", "192.0.2.1", "10.0.0.5")
    host.start()
    host.tell(interface(5))
    [state] = host.interfaces.states()
    assert (state["state"], state["message"]) == ("attached", "veth5 is named lan0 now"), "also after a restart"
    host.world.kernel.rename("lan0", "lan1")
    host.interfaces.renamed("lan0", "lan1")
    assert host.interfaces.states()[0]["message"] == "veth5 is named lan1 now"
    host.world.kernel.devices.discard("lan1")
    host.interfaces.gone("lan1")
    assert host.interfaces.states()[0]["state"] == "absent"


def test_another_device_under_the_old_name_is_left_alone(host: Host) -> None:
    host.tell(interface(5))
    host.world.kernel.rename("veth5", "lan0")
    host.world.kernel.devices.add("veth5")
    host.interfaces.renamed("veth5", "lan0")
    host.tell(interface(5))
    assert host.world.kernel.attached == {"lan0": 0}


def test_a_rename_in_mid_window_costs_no_packet(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.configure([5], [flow_log("a", [5])])
    world.start()
    world.send(count=3)
    world.tick_to(20)
    world.kernel.rename("veth5", "lan0")
    world.kernel.packet("lan0", "192.0.2.1", "10.0.0.5")
    world.capture.interfaces.renamed("veth5", "lan0")
    world.kernel.packet("lan0", "192.0.2.1", "10.0.0.5")
    world.start()
    world.kernel.packet("lan0", "192.0.2.1", "10.0.0.5")
    world.tick_to(60)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 6}
