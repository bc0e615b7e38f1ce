"""What every test counts on."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def interrupts_count() -> None:
    """Ctrl-C interrupts, even where whoever started the tests has it ignored, as ``nohup`` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
