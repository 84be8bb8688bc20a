"""`moorage_cri.container.signals`."""

from __future__ import annotations

import signal

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2
from moorage_cri.container import signals


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMINPLUS3", 37),
        ("SIGRTMAX-1", 63),
        ("SIGRTMAXMINUS14", 50),
        ("SIGCLD", signal.SIGCHLD),
        ("IOT", signal.SIGABRT),
        ("SIGPOLL", signal.SIGIO),
    ],
)
def test_names_and_numbers(name: str, number: int) -> None:
    assert signals.number(name) == number


@pytest.mark.parametrize("name", ["", "SIG", "SIGNOPE", "0", "65", "999", "SIGRTMIN+99", "RTMAX+1", "-9", "９"])
def test_what_is_no_signal(name: str) -> None:
    with pytest.raises(InvalidArgument):
        signals.number(name)


def test_every_signal_of_cri_has_a_number_and_comes_back() -> None:
    for value in cri_pb2.Signal.values():
        if value == cri_pb2.SIGNAL_RUNTIME_DEFAULT:
            continue
        name = signals.stop_signal(value, "")
        assert signals.number(signals.stop_signal(signals.cri_signal(name), "")) == signals.number(name)


def test_the_caller_comes_before_the_image_and_the_image_before_the_default() -> None:
    default = cri_pb2.SIGNAL_RUNTIME_DEFAULT
    assert signals.stop_signal(cri_pb2.SIGNAL_SIGHUP, "SIGINT") == "SIGHUP"
    assert signals.stop_signal(default, "int") == "SIGINT"
    assert signals.stop_signal(default, "3") == "3"
    assert signals.stop_signal(default, "") == signals.stop_signal(default, "nonsense") == "SIGTERM"
