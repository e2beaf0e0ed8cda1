"""A trace collector that accepts OTLP over HTTP, as Jaeger and Tempo do, and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """The received spans."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace, ordered by start time."""
        return sorted(
            (span for span in self.spans if span.trace_id.hex() == trace_id), key=lambda s: s.start_time_unix_nano
        )

    def take(self, raw: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.services.add(attributes(group.resource)["service.name"])
            for scope in group.scope_spans:
                self.spans.extend(scope.spans)


def attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on its own port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
