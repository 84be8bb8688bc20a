"""The files of a pod that its containers see in /etc: hostname, hosts, resolv.conf."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2
from moorage_cri.sandbox.userns import UserNamespace

HOSTNAME = "hostname"
HOSTS = "hosts"
RESOLV_CONF = "resolv.conf"
_MADE = "made"
_HOST_FILE_MAX = 1 << 20
_HOSTNAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HOSTNAME_MAX = 64


def check_hostname(hostname: str) -> str:
    """Return a host name that the kernel and /etc/hostname can hold, else raise `InvalidArgument`. Empty is allowed."""
    if hostname and (len(hostname) > _HOSTNAME_MAX or _HOSTNAME.fullmatch(hostname) is None):
        raise InvalidArgument(
            f"hostname {hostname[:80]!r} is not one of at most {_HOSTNAME_MAX} letters, digits, . and -"
        )
    return hostname


def resolv_conf(dns: cri_pb2.DNSConfig) -> str:
    """The contents of resolv.conf (resolv.conf(5)). `InvalidArgument` for a value with white space in it."""
    for value in (*dns.servers, *dns.searches, *dns.options):
        if not value or any(character.isspace() for character in value):
            raise InvalidArgument(f"{value[:80]!r} cannot stand in resolv.conf")
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def write(folder: Path, config: cri_pb2.PodSandboxConfig, user_namespace: UserNamespace | None = None) -> None:
    """Write a pod's files into its folder. What the pod does not say is taken from the host. They belong to the pod's
    root, who may be nobody on the host."""
    hostname = config.hostname or os.uname().nodename
    _put(folder / HOSTNAME, f"{hostname}\n")
    _put(folder / HOSTS, _host_file("/etc/hosts") or "127.0.0.1\tlocalhost\n::1\tlocalhost\n")
    own = resolv_conf(config.dns_config)
    _put(folder / RESOLV_CONF, own or _host_file("/etc/resolv.conf"))
    if user_namespace is not None:
        for name in (HOSTNAME, HOSTS, RESOLV_CONF):
            os.chown(folder / name, *user_namespace.root)


def mark_made(folder: Path) -> None:
    """Note that a pod is whole. Not synced: after a power cut the mark may be missing, `was_made` then says nothing."""
    (folder / _MADE).touch()


def was_made(folder: Path) -> bool:
    """Whether a pod of this boot was made to its end."""
    return (folder / _MADE).exists()


def remove(folder: Path) -> None:
    """Remove a pod's or a container's folder; one that is not there does not matter."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _host_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_HOST_FILE_MAX)
    except FileNotFoundError:
        return ""
