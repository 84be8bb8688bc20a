"""Signals by name and by number."""

from __future__ import annotations

import signal

from moorage_api.errors import InvalidArgument


def signal_number(text: str) -> int:
    """`TERM`, `SIGTERM` or `15` as a number. `InvalidArgument`."""
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        return signal.Signals[name].value
    except KeyError:
        pass
    for base, number in (("SIGRTMIN", signal.SIGRTMIN), ("SIGRTMAX", signal.SIGRTMAX)):
        offset = name.removeprefix(base)
        if name.startswith(base) and offset.lstrip("+-").isdecimal():
            return number + int(offset)
    raise InvalidArgument(f"unknown signal {text!r}: expected a name, as TERM, or a number from 1 to {signal.NSIG - 1}")


def signal_name(number: int) -> str:
    """`SIGTERM`; the number itself for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
