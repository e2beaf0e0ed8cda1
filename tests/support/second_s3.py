"""A second S3, made for production by other authors in another language: SeaweedFS, all of it in one process."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pipeline.local.embedded import Server
from pipeline.local.supervisor import command_line

#: The one user. Everyone else is anonymous, and may do what the bucket's policy allows.
USERS = {
    "identities": [
        {
            "name": "embedded",
            "credentials": [{"accessKey": "embedded", "secretKey": "embedded"}],
            "actions": ["Admin"],
        }
    ]
}

#: SeaweedFS's servers other than S3's, whose ports its options name too.
PORTS = ("s3.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc", "volume.port")
PORTS += ("volume.port.grpc",)


class SeaweedFS(Server):
    name = "weed"

    def command(self) -> str:
        (self._folder / "users.json").write_text(json.dumps(USERS), encoding="utf-8")
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        options = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": self.port,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self._folder / "users.json",
            "s3.autoCreateBucket": "false",  # S3 refuses an object for a missing bucket
            "s3.localSocket": self._folder / "s3.sock",
            "filer.localSocket": self._folder / "filer.sock",
            "master.telemetry": "false",
            "volume.max": 1000,  # each bucket takes one
            **self._ports,
        }
        return command_line(
            self._program, "-logtostderr", "server", "-s3", *(f"-{name}={value}" for name, value in options.items())
        )

    def variables(self) -> Mapping[str, str]:
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}  # 7 otherwise, for each bucket

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return (connection.getresponse().getheader("Server") or "").startswith("SeaweedFS")
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self, timeout: float) -> None:
        super().stop(timeout)
        for port in self._ports.values():  # the folder of these sockets cannot be chosen
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                left.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback interface, each another."""
    with ExitStack() as probes:
        bound = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in bound]
