"""A network for tests: a bridge, and hosts that are network namespaces, whose cables can be cut."""

from __future__ import annotations

import enum
import ipaddress
import json
import random
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_INTERFACE = "eth0"
_FIRST_HOST = 2


class NoNetwork(Exception):
    """Network namespaces cannot be made here."""


class Cut(enum.Enum):
    """How a host is cut off.

    ``SILENT``: every packet vanishes, in both directions, and no interface goes down.
    ``UNANSWERED``: the same, but only on the way to the host: what it sends arrives, a COMMIT for instance.
    ``DOWN``: the host's own interface goes down, and its route with it.
    """

    SILENT = "silent"
    UNANSWERED = "unanswered"
    DOWN = "down"


class Network:
    """A bridge with an address of this host's, and up to 250 hosts on it. Names are unique to this run.

    A guardian, a process of its own, removes it all once this process closes its end of a pipe, or dies.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        if shutil.which("ip") is None:
            raise NoNetwork("there is no `ip`: it comes with iproute2")
        self._tag = f"dd{secrets.token_hex(3)}"
        self._subnet = _free_subnet()
        self.hosts = tuple(hosts)
        self._guardian = subprocess.Popen(
            ["sh", "-c", f"trap '' INT TERM HUP; cat >/dev/null; {self._removal()}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server_address(self) -> str:
        """The address of this host on the bridge."""
        return str(self._subnet[1])

    @property
    def subnet(self) -> str:
        """The network's addresses, with a mask."""
        return str(self._subnet)

    def address(self, host: str) -> str:
        """Return a host's address."""
        return str(self._subnet[_FIRST_HOST + self.hosts.index(host)])

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """Return a command that runs ``command`` on a host, which has a host name of its own, too."""
        renamed = f"hostname {shlex.quote(host)} && exec {shlex.join(command)}"
        return ["ip", "netns", "exec", self.namespace(host), "unshare", "--uts", "sh", "-c", renamed]

    def cut(self, host: str, how: Cut) -> None:
        """Cut a host off."""
        match how:
            case Cut.SILENT:
                # The frames that arrive are not for this end of the cable, and nobody passes them on.
                _ip("link", "set", self._cable(host), "nomaster")
            case Cut.UNANSWERED:
                _ip("route", "add", "blackhole", f"{self.address(host)}/32")
            case Cut.DOWN:
                _ip("-n", self.namespace(host), "link", "set", _INTERFACE, "down")

    def heal(self, host: str, how: Cut) -> None:
        """Take back what `cut` did."""
        match how:
            case Cut.SILENT:
                _ip("link", "set", self._cable(host), "master", self._bridge)
            case Cut.UNANSWERED:
                _ip("route", "del", "blackhole", f"{self.address(host)}/32")
            case Cut.DOWN:
                _ip("-n", self.namespace(host), "link", "set", _INTERFACE, "up")
                self._introduce(host)  # An interface that goes down forgets its neighbours.

    def close(self) -> None:
        """Kill what still runs on the hosts, and remove these and the bridge."""
        self._guardian.communicate()

    def namespace(self, host: str) -> str:
        """Return the name of a host's network namespace."""
        return f"{self._tag}-{host}"

    @property
    def _bridge(self) -> str:
        return self._tag

    def _cable(self, host: str) -> str:
        return f"{self._tag}-{self.hosts.index(host)}"

    def _mac(self, number: int) -> str:
        return "02:" + ":".join(f"{byte:02x}" for byte in (0xDD, *self._subnet[number].packed))

    def _build(self) -> None:
        _ip("link", "add", self._bridge, "address", self._mac(1), "type", "bridge")
        _ip("addr", "add", f"{self.server_address}/{self._subnet.prefixlen}", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for host in self.hosts:
            self._attach(host)

    def _attach(self, host: str) -> None:
        namespace, cable = self.namespace(host), self._cable(host)
        mac = self._mac(_FIRST_HOST + self.hosts.index(host))
        _ip("netns", "add", namespace)
        _ip(
            "link",
            "add",
            cable,
            "type",
            "veth",
            "peer",
            "name",
            _INTERFACE,
            "address",
            mac,
            "netns",
            namespace,
        )
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip(
            "-n",
            namespace,
            "addr",
            "add",
            f"{self.address(host)}/{self._subnet.prefixlen}",
            "dev",
            _INTERFACE,
        )
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", _INTERFACE, "up")
        _ip("neigh", "replace", self.address(host), "lladdr", mac, "dev", self._bridge, "nud", "permanent")
        self._introduce(host)

    def _introduce(self, host: str) -> None:
        """Tell a host who the server is: if it had to ask, it would notice that nobody answers."""
        _ip(
            *("-n", self.namespace(host), "neigh", "replace", self.server_address),
            *("lladdr", self._mac(1), "dev", _INTERFACE, "nud", "permanent"),
        )

    def _removal(self) -> str:
        steps = []
        for host in self.hosts:
            namespace = self.namespace(host)
            steps.append(f"for pid in $(ip netns pids {namespace}); do kill -KILL $pid; done")
            steps.append(f"ip netns del {namespace}")
            steps.append(f"ip route del blackhole {self.address(host)}/32")
        return "; ".join([*steps, f"ip link del {self._bridge}"])


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetwork(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> ipaddress.IPv4Network:
    taken = [
        ipaddress.ip_network(route["dst"])
        for route in json.loads(_ip("-4", "-j", "route", "show"))
        if route["dst"] != "default"
    ]
    while True:
        found = ipaddress.IPv4Network(f"10.{random.randint(64, 250)}.{random.randint(0, 255)}.0/24")
        if not any(found.overlaps(network) for network in taken):
            return found
