import os
import signal

import pytest

from gan.compare.__main__ import set_signal_handlers
from gan.runtime.interrupt import SIGNALS


@pytest.fixture
def default_handlers():
    """Handle the signals as a new process does, and as before after the test."""
    defaults = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, default) for number, default in defaults.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_interrupts_and_others_do_not_disturb_the_end(default_handlers, number):
    set_signal_handlers()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    for other in SIGNALS:
        if other != signal.SIGINT:
            os.kill(os.getpid(), other)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signal_stays_ignored(default_handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_signal_handlers()
    os.kill(os.getpid(), signal.SIGHUP)
