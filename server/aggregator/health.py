"""Whether the aggregator is well, for people, supervisors and Prometheus, on loopback only."""

import json
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from federation.closing import Closing
from federation.errors import ConfigError, FlowerError
from federation.supervision import Program
from server.aggregator.control import Control
from server.aggregator.home import Home
from server.aggregator.storage import database_bytes, free_bytes


class Health(Closing):
    """``/health`` (200 or 503) and ``/metrics`` at the document's ``loopback.health``."""

    def __init__(self, home: Home, control: Control, programs: Sequence[Program]) -> None:
        """Raises :class:`ConfigError` where the port is taken."""
        self.is_ready = False
        self._programs = programs
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Facts(home, control, programs))
        port = home.document.loopback.health
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            raise ConfigError(
                f"port {port} of loopback cannot be listened at ({error.strerror}); is another "
                "`iodeep server serve` running? Else give [loopback] health another"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Closing twice is harmless."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path == "/health":
            state = {one.what: "running" if one.is_running else "down" for one in self._programs}
            body = json.dumps({"ready": self.is_ready, **state}).encode() + b"\n"
            return 200 if self.is_ready else 503, "application/json", body
        return 404, "text/plain", b"/health and /metrics are here\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                status, kind, body = health._answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: a probe every second would drown all else."""

        return Handler


class _Facts:
    """What Prometheus is told, found out when it asks."""

    def __init__(self, home: Home, control: Control, programs: Sequence[Program]) -> None:
        self._home = home
        self._control = control
        self._programs = programs

    def collect(self) -> Iterable[Metric]:
        running = GaugeMetricFamily(
            "iodeep_program_running", "Whether a program runs.", labels=["program"]
        )
        starts = GaugeMetricFamily(
            "iodeep_program_starts", "How often a program was started.", labels=["program"]
        )
        for one in self._programs:
            running.add_metric([one.what.removeprefix("the ")], float(one.is_running))
            starts.add_metric([one.what.removeprefix("the ")], one.starts)
        yield from (running, starts, self._certificate(), *self._storage())
        try:
            nodes, runs = self._control.nodes(), self._control.runs()
        except FlowerError:
            return
        online = GaugeMetricFamily(
            "iodeep_site_online", "Whether an approved site is connected.", labels=["site"]
        )
        for node in nodes:
            online.add_metric([node.name], float(node.is_online))
        count = GaugeMetricFamily("iodeep_runs", "Runs by state.", labels=["state"])
        moved = GaugeMetricFamily(
            "iodeep_run_bytes", "Bytes of a run.", labels=["branch", "direction"]
        )
        states = [run.state for run in runs]
        for state in sorted(set(states)):
            count.add_metric([state], states.count(state))
        for run in runs:
            moved.add_metric([run.branch, "to sites"], run.sent)
            moved.add_metric([run.branch, "from sites"], run.received)
        yield from (online, count, moved)

    def _storage(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "iodeep_database_bytes",
            "Bytes of the SuperLink's database.",
            database_bytes(self._home),
        )
        yield GaugeMetricFamily(
            "iodeep_disk_free_bytes",
            "Bytes that are free on the database's disk.",
            free_bytes(self._home),
        )

    def _certificate(self) -> GaugeMetricFamily:
        certificate = x509.load_pem_x509_certificate(self._home.certificate("server").read_bytes())
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        family = GaugeMetricFamily(
            "iodeep_certificate_days", "Days until the server's certificate expires."
        )
        family.add_metric([], left.total_seconds() / 86400)
        return family
