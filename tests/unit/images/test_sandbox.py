"""The sandbox: it renders as the libraries do, and an image can harm only itself."""

from __future__ import annotations

import os
import signal
import struct
import threading

import pytest
from PIL import Image

from pipeline.errors import PermanentError, RetryableError
from pipeline.images import child_process, sandbox
from pipeline.images import render as images
from pipeline.images.identify import identify
from tests.corpus import samples
from tests.support.pictures import LIMITS, corners, encoded, recipe
from tests.support.sandboxed import ONE, child, is_alive, refused, run

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")

pytestmark = pytest.mark.usefixtures("own_child")


class TestRendering:
    @pytest.mark.parametrize("name", FORMATS)
    def test_renditions_are_those_of_the_libraries(self, name: str) -> None:
        data = encoded(corners(), name)
        wanted = recipe("40x40", "5X7", "40x20@blur", fit="contain")
        assert sandbox.render(data, wanted, **LIMITS) == images.render(data, wanted, **LIMITS)

    def test_they_are_for_every_file_of_the_small_corpus(self) -> None:
        # Given good files of every format, mode and profile, when each is rendered in the sandbox
        for name, data, _ in samples.good():
            made = sandbox.render(data, recipe("50x40"), max_pixels=4_000_000, max_decoded_pixels=4_000_000)
            # Then the bytes are the same as without it
            assert made == images.render(data, recipe("50x40"), max_pixels=4_000_000, max_decoded_pixels=4_000_000), (
                name
            )

    @pytest.mark.parametrize(
        ("source", "code"),
        [
            (encoded(corners(), "AVIF")[:-40], "broken_image"),
            (encoded(corners(2000, 2000), "TIFF"), "too_large"),
            (encoded(corners(), "PNG")[:-40], "broken_image"),
            (b"<svg/>", "unsupported_format"),
            (b"text", "not_an_image"),
        ],
    )
    def test_errors_are_passed_on(self, source: bytes, code: str) -> None:
        with pytest.raises(PermanentError) as caught:
            sandbox.render(source, ONE, **LIMITS)
        assert caught.value.code == code
        # And the child goes on
        first = child()
        assert sandbox.render(encoded(corners(), "PNG"), ONE, **LIMITS)
        assert child() == first


def lying_avif(side: int) -> bytes:
    """Make an AVIF whose container claims 32 x 32 pixels, whatever its picture has."""
    data = encoded(Image.new("RGB", (side, side)), "AVIF", speed=10)
    true, false = struct.pack(">II", side, side), struct.pack(">II", 32, 32)
    assert data.count(true) == 1
    return data.replace(true, false)


class TestLimits:
    def test_a_picture_larger_than_its_container_ends_at_the_memory_limit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given an AVIF that takes far more memory than its header claims
        data = lying_avif(5000)
        assert identify(data, max_pixels=1024)
        monkeypatch.setattr(sandbox, "MAX_DECODER_BYTES", 20_000_000)
        monkeypatch.setattr(sandbox, "KEPT", 0)
        # When it is rendered
        with pytest.raises(PermanentError) as caught:
            sandbox.render(data, ONE, **LIMITS)
        # Then the decoder ran out of memory
        assert caught.value.code in {"too_large", "broken_image"}
        # And an honest one has enough
        assert sandbox.render(encoded(corners(), "AVIF"), ONE, **LIMITS)

    def test_code_that_takes_all_memory_gets_no_more_than_the_limit(self, hooked: None) -> None:
        error = refused(
            """
            blocks = []
            try:
                while True:
                    blocks.append(mmap.mmap(-1, 64_000_000))
            except OSError:
                result = len(blocks)
            """
        )
        assert int(error.message) * 64_000_000 <= sandbox.KEPT + sandbox.MAX_DECODER_BYTES + 1000

    def test_running_out_of_memory_is_permanent(self, hooked: None) -> None:
        error = refused("from pipeline.errors import RetryableError as R; raise R('out_of_memory', '')")
        assert isinstance(error, PermanentError)
        assert (error.code, "850 MB" in error.message) == ("too_large", True)

    def test_an_image_has_a_limit_of_cpu_time(self, hooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "CPU_SECONDS", 0.1)
        # Given code that counts its attempts outside of the sandbox: each starts a child
        starts = counted_starts(monkeypatch)
        error = refused("while True: pass")
        # Then its own CPU time has ended it, which no second attempt would change
        assert (error.code, "CPU" in error.message, len(starts)) == ("too_large", True, 1)

    @pytest.mark.parametrize(
        "code", ["time.sleep(600)", "signal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass"]
    )
    def test_an_image_that_blocks_is_refused_after_two_attempts(
        self, hooked: None, monkeypatch: pytest.MonkeyPatch, code: str
    ) -> None:
        assert refused("").code == "broken_image"  # the first child has started
        starts = counted_starts(monkeypatch)
        monkeypatch.setattr(sandbox, "TIMEOUT", 0.2)
        monkeypatch.setattr(sandbox, "CPU_SECONDS", 0.1)
        error = refused(code)
        assert (type(error).__bases__[0], error.code, len(starts)) == (PermanentError, "too_large", 1)

    def test_a_large_source_may_take_more(self) -> None:
        padding = encoded(corners(), "BMP") + bytes(60_000_000)
        assert sandbox.render(padding, ONE, **LIMITS)


def counted_starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each start of a child."""
    starts: list[int] = []
    real = sandbox._Sandbox.start

    def start(self: sandbox._Sandbox) -> str:
        starts.append(1)
        return real(self)

    monkeypatch.setattr(sandbox._Sandbox, "start", start)
    return starts


class TestCrashes:
    @pytest.mark.parametrize(
        ("code", "cause", "grace"),
        [
            ("ctypes.string_at(0)", "SIGSEGV", 60),
            ("os.abort()", "SIGABRT", 60),
            ("os._exit(0)", "exit status 0", 60),
            ("raise SystemExit(3)", "exit status 3", 60),
            ("os.close(1); time.sleep(600)", "exit status 0", 0.1),
        ],
    )
    def test_an_image_that_ends_two_decoders_is_broken(
        self, hooked: None, monkeypatch: pytest.MonkeyPatch, code: str, cause: str, grace: float
    ) -> None:
        monkeypatch.setattr("pipeline.images.child_process._GRACE", grace)
        starts = counted_starts(monkeypatch)
        error = refused(code)
        assert isinstance(error, PermanentError)
        assert (error.code, cause in error.message, len(starts)) == ("broken_image", True, 2)
        # And the next image is rendered
        assert run("made = {'5x5': b'fine'}") == {"5x5": b"fine"}

    def test_an_image_is_not_blamed_for_the_one_before(self, hooked: None) -> None:
        # Given an image that damaged its decoder and was rendered all the same
        run("kept['damage'] = True; made = {'5x5': b'first'}")
        # When the damage ends the decoder of the next one, then that one is rendered
        assert run("'damage' in kept and ctypes.string_at(0); made = {'5x5': b'second'}") == {"5x5": b"second"}

    def test_a_signal_to_the_group_of_processes_does_not_reach_it(self, hooked: None) -> None:
        # Given a terminal or a supervisor that signals the worker and all its children
        assert refused("").code == "broken_image"
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child(), each)
        # Then the image is finished
        assert run("made = {'5x5': b'fine'}") == {"5x5": b"fine"}
        assert os.getpgid(child()) == os.getpgrp()

    def test_a_decoder_ended_by_the_system_is_retried_later(self, hooked: None) -> None:
        assert refused("").code == "broken_image"
        killer = threading.Timer(0.05, os.kill, (child(), signal.SIGKILL))
        killer.start()
        error = refused("time.sleep(600)")
        killer.join()
        assert (type(error), error.code) == (RetryableError, "out_of_memory")

    def test_a_decoder_that_a_real_time_signal_ended_is_a_crash_like_any_other(self) -> None:
        error = sandbox._judged(child_process.Ended(-60), "PNG")  # these signals have no names
        assert (error.code, "crashed with signal 60" in error.message) == ("broken_image", True)

    @pytest.mark.parametrize(
        "answer",
        [
            "FRAME.pack(2**31, 0)",
            "FRAME.pack(2, 2**31) + b'{}'",
            "FRAME.pack(2, 0) + b'[]'",
            "FRAME.pack(2, 0) + b'{}'",
            "FRAME.pack(2, 0) + b'{{'",
            "FRAME.pack(60_000, 0) + b'[' * 60_000",
            "FRAME.pack(15, 4) + b'{\"lengths\":[3]}' + b'four'",
            "FRAME.pack(18, 0) + b'{\"lengths\":[-1,1]}'",
            "FRAME.pack(17, 1) + b'{\"lengths\":[true]}' + b'x'",
            'FRAME.pack(28, 0) + b\'{"error":["worker_crashed",1]}\'',
            'FRAME.pack(33, 0) + b\'{"error":["worker_crashed","text"]}\'',
        ],
    )
    def test_an_unusable_answer_is_a_broken_image(self, hooked: None, answer: str) -> None:
        error = refused(f"os.write(1, {answer}); time.sleep(600)")
        assert (error.code, "unusable" in error.message) == ("broken_image", True)

    def test_a_message_is_one_printable_line(self, hooked: None) -> None:
        assert refused("result = 'a\\n\\x1b[31mb' + 'c' * 999").message == "a[31mb" + "c" * 292

    def test_a_child_that_does_not_start_is_an_error_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "CHILD", ("-c", "raise SystemExit(7)"))
        with pytest.raises(RuntimeError, match="7"):
            sandbox.render(encoded(corners(), "TIFF"), ONE, **LIMITS)

    def test_an_interrupted_image_does_not_answer_for_the_next(
        self, hooked: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupt(BaseException):
            pass

        def interrupt(*_: object) -> None:
            raise Interrupt

        # Given an image whose actor reached its time limit
        refused("")
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.images.child_process._wait", interrupt)
            with pytest.raises(Interrupt):
                run("made = {'5x5': b'late'}")
        # When the next one is rendered, then it gets its own answer
        assert run("made = {'5x5': b'next'}") == {"5x5": b"next"}


class TestLife:
    def test_a_child_serves_many_images_and_threads(self) -> None:
        # Given an image rendered by a thread that has ended
        data = encoded(corners(), "PNG")
        thread = threading.Thread(target=sandbox.render, args=(data, ONE), kwargs=LIMITS)
        thread.start()
        thread.join()
        first = child()
        # When other threads render, then the same child does it
        assert sandbox.render(data, ONE, **LIMITS)
        assert (child(), is_alive(first)) == (first, True)

    def test_a_child_is_replaced_after_its_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "IMAGES_PER_CHILD", 2)
        starts = counted_starts(monkeypatch)
        for _ in range(5):
            sandbox.render(encoded(corners(), "PNG"), ONE, **LIMITS)
        assert len(starts) == 3
