"""Helpers that the commands share."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.cli.output.terminal import confirmed, interruptible


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_interrupt_the_clean_up(signum: signal.Signals) -> None:
    cleaned_up = []

    def command() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signum)
            finally:
                os.kill(os.getpid(), signum)
                cleaned_up.append(True)

    # Given a command that is interrupted, and once more while it cleans up
    before = signal.getsignal(signum)
    with pytest.raises(KeyboardInterrupt):
        command()
    # Then it has cleaned up, and the signal is handled as before.
    assert cleaned_up
    assert signal.getsignal(signum) == before


def test_without_a_terminal_only_yes_confirms(capsys: pytest.CaptureFixture[str]) -> None:
    assert confirmed(True, "Delete?", "--yes deletes")
    assert not confirmed(False, "Delete?", "--yes deletes")
    assert "Nothing was changed: --yes deletes." in capsys.readouterr().out
