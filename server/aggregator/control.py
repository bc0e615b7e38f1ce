"""The SuperLink's Control API: nodes and runs, on this machine's loopback only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from federation.closing import Closing
from federation.errors import FlowerError
from federation.flower.bundle import bundle, digest_of
from server.aggregator.home import Home

_FINISHED = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A SuperNode as the SuperLink knows it.

    key:  its public key, as Flower encodes it
    seen: when it was connected last, ISO 8601; empty for never
    """

    number: int
    name: str
    key: bytes
    is_online: bool
    seen: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as the SuperLink knows it.

    state:  ``pending``, ``starting``, ``running``, or how it finished: ``completed``, ``failed``,
            ``stopped``
    sent, received: bytes, from and to the sites, as Flower counts them
    """

    number: int
    branch: str
    work: str
    state: str
    detail: str
    sent: int
    received: int

    @property
    def is_finished(self) -> bool:
        return self.state in ("completed", "failed", "stopped")


class Control(Closing):
    """Asks the SuperLink of an aggregator, which ``iodeep server serve`` runs."""

    def __init__(self, home: Home) -> None:
        port = home.document.loopback.superlink
        self._client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=home.certificate("ca").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="iodeep")],
        )

    def nodes(self) -> list[Node]:
        """The nodes that are registered. Raises :class:`FlowerError` where there is no answer."""
        with _wrapped("which sites it knows"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Node(
                number=node.node_id,
                name=node.name,
                key=node.public_key,
                is_online=node.status == "online",
                seen=node.last_deactivated_at or node.last_activated_at,
            )
            for node in found
            if node.status != "unregistered"
        ]

    def register(self, name: str, key: bytes) -> None:
        """Let a node in. Raises :class:`FlowerError`."""
        with _wrapped(f"to let {name} in"):
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, node: Node) -> None:
        """Let a node in no more. Raises :class:`FlowerError`."""
        with _wrapped(f"to let {node.name} in no more"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.number))

    def start(self, config: Mapping[str, str]) -> int:
        """Start a run of our apps; returns its number. Raises :class:`FlowerError`."""
        content = bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab(digest_of(content), content, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        with _wrapped("to start a run"):
            return int(self._client.StartRun(request).run_id)

    def stop(self, number: int) -> None:
        """End a run. Raises :class:`FlowerError`."""
        with _wrapped(f"to stop run {number}"):
            self._client.StopRun(StopRunRequest(run_id=number))

    def runs(self, number: int | None = None) -> list[Run]:
        """All runs, or one, the newest first. Raises :class:`FlowerError`."""
        request = ListRunsRequest() if number is None else ListRunsRequest(run_id=number)
        with _wrapped("which runs there are"):
            found = self._client.ListRuns(request).run_dict
        newest = sorted(found.values(), key=lambda run: run.pending_at, reverse=True)
        return [
            Run(
                number=run.run_id,
                branch=run.override_config["branch"].string,
                work=run.override_config["work"].string,
                state=(
                    run.status.sub_status if run.status.status == _FINISHED else run.status.status
                ),
                detail=run.status.details,
                sent=run.bytes_sent,
                received=run.bytes_recv,
            )
            for run in newest
        ]

    def close(self) -> None:
        """Let go of the connection. Closing twice is harmless."""
        self._client.close()


@contextmanager
def _wrapped(question: str) -> Iterator[None]:
    """Errors of HTTP become ours."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise FlowerError(
            f"the SuperLink was asked {question} and answered {error.response.status_code}: "
            f"{error.response.text:.200}"
        ) from error
    except httpx.HTTPError as error:
        raise FlowerError(
            f"the SuperLink was asked {question} and did not answer ({type(error).__name__}); "
            "is `iodeep server serve` running?"
        ) from error
