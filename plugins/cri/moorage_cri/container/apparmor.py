"""The AppArmor profile of containers that ask for the runtime's default one (apparmor.d(5))."""

from __future__ import annotations

import shutil
import subprocess

from moorage_api.errors import FailedPrecondition

NAME = "moorage-default"
_PROFILES = "/sys/kernel/security/apparmor/profiles"
_PARSER = "apparmor_parser"
_SECONDS = 20.0

# A container may use the network, its files and its capabilities. It may not mount, nor write to what configures the kernel,
# nor trace or signal what is outside of it.
_TEXT = f"""profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  ptrace peer={NAME},
  signal (send,receive) peer={NAME},
  signal (receive) peer=unconfined,
  signal (receive) peer={{crun,runc}},

  deny mount,
  deny /proc/{{kcore,sysrq-trigger}} rwklx,
  deny /proc/{{acpi,bus,fs,irq,scsi,sys}}/** w,
  deny /sys/{{block,bus,class,dev,devices,hypervisor,module,power}}/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/{{firmware,kernel}}/** rwklx,
}}
"""


def loaded(name: str, profiles: str = _PROFILES) -> bool:
    """Whether the kernel has a profile of that name."""
    try:
        with open(profiles, encoding="utf-8", errors="replace") as file:
            return any(line.rpartition(" (")[0] == name for line in file)
    except OSError:
        return False


def ensure_default(profiles: str = _PROFILES) -> str:
    """Load the default profile if the kernel does not have it; returns its name. This runs a program.

    `FailedPrecondition` where it cannot be loaded: a container must not run with less than it was promised.
    """
    if loaded(NAME, profiles):
        return NAME
    parser = shutil.which(_PARSER)
    if parser is None:
        raise FailedPrecondition(f"the default AppArmor profile needs {_PARSER}, which is not installed")
    try:
        command = [parser, "--replace", "--skip-cache"]
        done = subprocess.run(command, input=_TEXT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"{_PARSER} did not end within {_SECONDS:g} s") from error
    if done.returncode:
        raise FailedPrecondition(f"{_PARSER}: {done.stderr.strip()[-500:]}")
    return NAME
