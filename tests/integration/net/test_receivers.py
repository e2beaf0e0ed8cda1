"""The receivers of docs/receivers, each run in its language, where its runtime is installed."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from pipeline.clients import lazy
from pipeline.errors import RetryableError
from pipeline.net.notifications import postback
from pipeline.ops.schema import document
from tests.support.untrusted_servers import settings
from tests.support.waiting import wait_for
from tests.unit.monitoring.test_http_server import free_port

FOLDER = Path(__file__).parents[3] / "docs/receivers"
BRIDGE = Path(__file__).with_name("receiver_server.mjs")
(SECRET,) = re.findall(r'Webhook\("(whsec_\w+)"\)', (FOLDER / "receiver.py").read_text(encoding="utf-8"))
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
URL = "https://cdn.example/975b_50x50.jpeg"
RENDITION = {"url": URL, "bucket_path": "images-resized/ŻÓŁW/", "width": 50}
ERROR = {"stage": "fetch", "code": "http_404", "message": "feeds.example answered 404."}
RESULT = {
    "image_url": "https://feeds.example/a.jpg",
    "image_url_info": {"50x50": RENDITION},
    "itunes_image": "https://feeds.example/b.jpg",
    "itunes_image_info": None,
    "itunes_image_error": ERROR,
}
BODY = json.dumps(RESULT, ensure_ascii=False)


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def go(port: int, folder: Path) -> list[str]:
    needed("go")
    subprocess.run(["go", "build", "-o", folder / "receiver", FOLDER / "receiver.go"], check=True)
    return [str(folder / "receiver")]


def php(port: int, folder: Path) -> list[str]:
    needed("php")
    return ["php", "-S", f"127.0.0.1:{port}", str(FOLDER / "receiver.php")]


def python(port: int, folder: Path) -> list[str]:
    return [sys.executable, str(FOLDER / "receiver.py")]


def typescript(port: int, folder: Path) -> list[str]:
    needed("node", "tsc")
    options = ["--strict", "--target", "es2022", "--module", "es2022", "--lib", "es2022,dom,dom.iterable"]
    subprocess.run(["tsc", *options, "--rootDir", FOLDER, "--outDir", folder, FOLDER / "receiver.ts"], check=True)
    compiled = (folder / "receiver.js").rename(folder / "receiver.mjs")
    return ["node", str(BRIDGE), str(compiled), str(port)]


LANGUAGES = {".go": go, ".php": php, ".py": python, ".ts": typescript}


class Receiver:
    """A running receiver, and the lines that it prints."""

    def __init__(self, port: int, printed: Path) -> None:
        self.port, self._printed = port, printed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def printed(self, job_id: str) -> list[str]:
        lines = self._printed.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix(f"{job_id} ") for line in lines if line.startswith(f"{job_id} ")]

    def is_listening(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def post(self, headers: Mapping[str, str], body: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/", body.encode(), {"Content-Type": "application/json", **headers})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module", params=LANGUAGES)
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Start the receiver of one language."""
    folder, port = tmp_path_factory.mktemp("receiver"), free_port()
    command = LANGUAGES[request.param](port, folder)
    environment = os.environ | {"PORT": str(port), "TMPDIR": str(folder)}
    with (folder / "printed").open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(command, stdout=printed, env=environment)
        try:
            started = Receiver(port, folder / "printed")
            wait_for(started.is_listening)
            yield started
        finally:
            process.terminate()
            process.wait(30)


def signed(job_id: str, *, at: datetime | None = None, secret: str = SECRET) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = Webhook(secret).sign(job_id, at, BODY)
    return {"webhook-id": job_id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


@pytest.mark.parametrize("secrets", [SECRET, f"{OTHER_SECRET} {SECRET}"], ids=["one secret", "rotated"])
def test_a_postback_is_taken_once_however_often_it_arrives(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, secrets: str
) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", POSTBACK_SIGNING_SECRET=secrets)
    job_id = f"job-{len(secrets)}"
    # When a result is posted twice, and again after a redrive
    for report_id in (job_id, job_id, f"{job_id}.r1"):
        postback(report_id, receiver.url, RESULT)
    lazy.forget()
    # Then it is used once under each id
    for report_id in (job_id, f"{job_id}.r1"):
        assert wait_for(lambda of=report_id: receiver.printed(of)) == [f"50x50 {URL}", f"http_404 {ERROR['message']}"]


def test_the_service_is_refused_with_another_secret(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", POSTBACK_SIGNING_SECRET=OTHER_SECRET)
    with pytest.raises(RetryableError, match="http_401"):
        postback("other-secret", receiver.url, RESULT)
    lazy.forget()


def forged() -> dict[str, tuple[dict[str, str], str]]:
    """Return headers and bodies that a receiver must refuse."""
    good, now = signed("forged"), datetime.now(UTC)
    return {
        "another body": (good, BODY.replace("50x50", "51x51", 1)),
        "another id": (good | {"webhook-id": "forged-2"}, BODY),
        "another time": (good | {"webhook-timestamp": str(int(now.timestamp()) - 1)}, BODY),
        "six minutes old": (signed("forged", at=now - timedelta(minutes=6)), BODY),
        "six minutes ahead": (signed("forged", at=now + timedelta(minutes=6)), BODY),
        "no signature": ({name: good[name] for name in ("webhook-id", "webhook-timestamp")}, BODY),
        "no headers": ({}, BODY),
        "an empty signature": (good | {"webhook-signature": "v1,"}, BODY),
        "another version": (good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}, BODY),
        "a time that is not a number": (good | {"webhook-timestamp": "now"}, BODY),
    }


@pytest.mark.parametrize("name", forged())
def test_a_forged_postback_is_refused(receiver: Receiver, name: str) -> None:
    headers, body = forged()[name]
    assert receiver.post(headers, body) == 401
    assert receiver.post(signed("control"), BODY) == 204
    assert receiver.printed("forged") == []


# The types.


def fields_of(schema: dict[str, Any]) -> set[str]:
    images = {f"{field}_{kind}" for field in ("image_url", "itunes_image") for kind in ("info", "error")}
    assert images <= schema["properties"].keys()
    return images.union(*(schema["$defs"][name]["required"] for name in ("Rendition", "ImageError")))


@pytest.mark.parametrize("suffix", LANGUAGES)
def test_the_types_of_a_receiver_have_the_fields_of_the_schema(suffix: str) -> None:
    text = (FOLDER / f"receiver{suffix}").read_text(encoding="utf-8")
    assert {name for name in fields_of(document("postback")) if not re.search(rf"\b{name}\b", text)} == set()
    assert {path.suffix for path in FOLDER.iterdir()} == LANGUAGES.keys()
