"""A producer's import: `from pipeline import send_message` is cheap, and changes no global of other libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Libraries that a producer does not need. boto3 is imported when the first message is sent.
NOT_NEEDED = {"PIL", "boto3", "bson", "pic_scale", "dramatiq", "numpy", "obstore", "prometheus_client", "pymongo"}

IMPORT = """
import json, sys
from pipeline import Rejected, send_message
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

GLOBALS = """
import json, logging, threading
import botocore, dramatiq, dramatiq.encoder, urllib3
from dramatiq.brokers.stub import StubBroker
from PIL import AvifImagePlugin, Image

dramatiq.set_broker(StubBroker())
dramatiq.set_encoder(dramatiq.encoder.PickleEncoder())

def state():
    names = ("", "urllib3", "urllib3.connection", "urllib3.connectionpool", "botocore", "dramatiq")
    loggers = dict(zip(names, map(logging.getLogger, names)))
    return {
        "logging": {n: [l.level, l.propagate, l.disabled, len(l.handlers), len(l.filters)] for n, l in loggers.items()},
        "Pillow": [Image.core.get_blocks_max(), Image.core.get_block_size(), Image.core.get_alignment(),
                   Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS],
        "dramatiq": [type(dramatiq.get_broker()).__name__, type(dramatiq.get_encoder()).__name__],
        "threads": threading.active_count(),
    }

before = state()
IMPORT_OURS
print(json.dumps([before, state()]))
"""


def run(script: str) -> object:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_import_brings_no_library_that_a_producer_does_not_need() -> None:
    # When a program imports what a producer needs
    imported = run(IMPORT)
    # Then it has our package, and no library that only workers need
    assert "pipeline" in imported
    assert not NOT_NEEDED.intersection(imported)


@pytest.mark.parametrize(
    "statement",
    [
        "from pipeline import Rejected, send_message",
        "from pipeline.images import sandbox",
        "from pipeline.net import guard",
    ],
)
def test_the_import_changes_no_global_of_other_libraries(statement: str) -> None:
    # Given a program with its own broker, encoder and settings of logging and Pillow
    # When it imports a part of the pipeline
    before, after = run(GLOBALS.replace("IMPORT_OURS", statement))
    # Then all of them are as they were
    assert after == before


def test_both_names_are_in_the_package() -> None:
    import pipeline
    from pipeline.errors import Rejected
    from pipeline.producer import send_message

    assert (pipeline.Rejected, pipeline.send_message) == (Rejected, send_message)
    with pytest.raises(AttributeError, match="send_massage"):
        _ = pipeline.send_massage
