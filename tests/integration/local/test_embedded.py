from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from pipeline.clients import aws, lazy
from pipeline.local import embedded
from pipeline.local.embedded import EmbeddedStack, EmbeddedStackError
from tests.support.waiting import wait_for

#: A program that runs a stack, prints its address, and waits to be killed.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit an ignored SIGINT
from pathlib import Path
from pipeline.local.embedded import EmbeddedStack
with EmbeddedStack(Path(sys.argv[1])) as stack:
    print(stack.environ["AWS_ENDPOINT_URL"], stack.environ["MONGO_URL"], flush=True)
    signal.pause()
"""


def port_of(url: str) -> int:
    return int(url.removeprefix("http://").removeprefix("mongodb://").split("/")[0].split(":")[1])


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def processes_with(text: str) -> list[str]:
    """Return the processes whose command line or environment contains `text`."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line and int(line.split()[0]) != os.getpid()]


def test_both_servers_answer(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path) as stack:
        database: MongoClient[dict[str, Any]]
        with MongoClient(stack.environ["MONGO_URL"]) as database:
            assert database.get_default_database().name == "image_service"
            database.get_default_database()["channels"].insert_one({"title": "a"})
            assert database.get_default_database()["channels"].count_documents({}) == 1
        ports = [port_of(stack.environ["AWS_ENDPOINT_URL"]), port_of(stack.environ["MONGO_URL"])]
        assert all(map(listens, ports))
    assert not any(map(listens, ports))
    assert (tmp_path / "ministack.log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only there are all of 127.0.0.0/8 addresses of this machine")
def test_the_loopback_address_is_the_only_one_served(stack: EmbeddedStack) -> None:
    port = port_of(stack.environ["AWS_ENDPOINT_URL"])
    assert listens(port)
    assert not listens(port, "127.0.0.2")  # a server on all addresses would answer


def test_no_variable_of_the_developer_leads_elsewhere(stack: EmbeddedStack) -> None:
    assert {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS", "AWS_ACCESS_KEY_S3", "MONGO_URL_PRODUCTION"} <= set(
        stack.environ
    )


def test_a_persistent_stack_keeps_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (True, False):
        with EmbeddedStack(tmp_path, persist=True) as stack:
            for name, value in stack.environ.items():
                monkeypatch.setenv(name, value)
            lazy.forget()
            database: MongoClient[dict[str, Any]]
            with MongoClient(stack.environ["MONGO_URL"]) as database:
                documents = database.get_default_database()["channels"]
                if first:
                    documents.insert_one({"title": "kept"})
                    aws.s3().create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "us-east-2"})
                    aws.s3().put_object(Bucket="kept", Key="a", Body=b"kept")
                    queue = aws.sqs().create_queue(QueueName="kept")["QueueUrl"]
                    aws.sqs().send_message(QueueUrl=queue, MessageBody="kept")
                else:
                    assert documents.count_documents({"title": "kept"}) == 1
                    assert aws.s3().get_object(Bucket="kept", Key="a")["Body"].read() == b"kept"
                    queue = aws.sqs().get_queue_url(QueueName="kept")["QueueUrl"]
                    assert aws.sqs().receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "kept"
    lazy.forget()


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_created_is_explained(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EmbeddedStackError, match=r"file.* is not writable \(.*another"),
        EmbeddedStack(tmp_path / folder),
    ):
        pass


def test_a_taken_port_is_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = embedded._free_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with EmbeddedStack(tmp_path, with_mongo=False) as stack:
            assert port_of(stack.environ["AWS_ENDPOINT_URL"]) == free
            assert stack.environ["MONGO_URL"] == ""  # not that of the developer, although this stack has none


def test_a_folder_in_use_is_refused(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a running stack with a dashboard
    embedded.note(stack._data_dir, "http://127.0.0.1:8480/")
    # When another one is started in its folder, then it says at once who uses it
    monkeypatch.setattr(embedded.time, "sleep", lambda _: pytest.fail("it waited"))
    running = rf"another embedded stack uses .* \(process {os.getpid()}, http://127.0.0.1:8480/\)"
    with pytest.raises(EmbeddedStackError, match=running), EmbeddedStack(stack._data_dir):
        pass


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_server_outlives_its_parent(signal_number: int, tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout
        ports = [port_of(url) for url in parent.stdout.readline().split()]
        assert len(ports) == 2
        assert all(map(listens, ports))
        parent.send_signal(signal_number)
        assert parent.wait(30) != 0
    wait_for(lambda: not any(map(listens, ports)))
    wait_for(lambda: not processes_with(str(tmp_path)))
