"""Whether the host firewall's verdict is seen: by the program of capture/host_firewall.py, or why it is not."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from vnotch.capture.generations import DropMaps, Generations
from vnotch.capture.host_firewall import HostFirewall, HostFirewallState
from vnotch.capture.interfaces import Namespace
from vnotch.capture.pins import PinFolder
from vnotch.capture.uppers import Identity
from vnotch.errors import HostError

log = logging.getLogger(__name__)


class Sight:
    """The host firewall of the captured namespace, as far as it is seen. The caller's lock guards it."""

    def __init__(self) -> None:
        """Not seen."""
        self.firewall: HostFirewall | None = None
        self._why_not = "it is switched off"

    def load(self, pins: PinFolder | None, shared: Mapping[str, int], namespace: Namespace, same_netns: bool) -> None:
        """As `HostFirewall.load`; where it cannot be, the capture goes on without it and says so."""
        try:
            self.firewall = HostFirewall.load(pins, shared, namespace, same_netns)
        except HostError as error:
            self._forgo(error)

    def attach(self, generations: Generations) -> None:
        """From here on drops are counted, if they can be."""
        if self.firewall is None:
            return
        try:
            self.firewall.attach()
        except HostError as error:
            self.remove()
            generations.forgo_drops()
            self._forgo(error)

    def _forgo(self, error: HostError) -> None:
        self._why_not = str(error)
        log.warning("the host firewall's verdict is not seen: %s", error)

    @property
    def fds(self) -> Mapping[str, int]:
        """Of its own maps."""
        return self.firewall.fds if self.firewall is not None else {}

    def drop_maps(self) -> DropMaps | None:
        fds = self.fds
        if not fds:
            return None
        return DropMaps(
            active=fds["active_drops"],
            drops=(fds["drops_0"], fds["drops_1"]),
            rest=(fds["rest_0"], fds["rest_1"]),
            untold=fds["untold_drops"],
        )

    def state(self, generations: Generations) -> HostFirewallState:
        if self.firewall is None:
            return HostFirewallState(self._why_not)
        untold = generations.sum_cpus(self.fds["untold_drops"])
        (places,) = np.nonzero(untold["packets"])
        return HostFirewallState(
            None,
            {(place // 2, place % 2): int(untold["packets"][place]) for place in places.tolist()},
            generations.unmatched_drops[0],
        )

    # What lies above captured interfaces: capture/uppers.py

    def know(self, slot: int, identity: Identity) -> None:
        if self.firewall is not None and self.firewall.uppers is not None:
            self.firewall.uppers.know(slot, identity)

    def attached_otherwise(self) -> None:
        if self.firewall is not None and self.firewall.uppers is not None:
            self.firewall.uppers.attached_otherwise()

    def follow(self, captured: Mapping[int, int]) -> None:
        """`captured`: ifindex -> slot."""
        if self.firewall is not None and self.firewall.uppers is not None:
            self.firewall.uppers.follow(captured)

    # Ending

    def clear(self, slot: int) -> None:
        """Before a slot is given to another ENI."""
        if self.firewall is not None:
            self.firewall.clear(slot)
            if self.firewall.uppers is not None:
                self.firewall.uppers.forget(slot)

    def remove(self) -> None:
        """Ends it for good, also where it is pinned."""
        if self.firewall is not None:
            self.firewall.remove()
            self.firewall = None

    def close(self) -> None:
        """Ends this process's part."""
        if self.firewall is not None:
            self.firewall.close()
