"""What the parts of the runtime share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moorage_api.containers import ContainerStore
from moorage_api.content import ContentStore
from moorage_api.events import EventBus
from moorage_api.mounts import Mount
from mooraged.runtime.announcer import Announcer
from mooraged.runtime.cgroup_lock import CgroupLock
from mooraged.runtime.config import RuntimeConfig
from mooraged.runtime.jobs import Jobs
from mooraged.runtime.ledger import Ledger
from mooraged.runtime.resolver import Resolver
from mooraged.runtime.shims import Shims


class Mounter(Protocol):
    """What the runtime needs of a snapshotter."""

    def mounts(self, key: str) -> Sequence[Mount]: ...


class View(Protocol):
    """What the runtime needs of one namespace's records."""

    @property
    def containers(self) -> ContainerStore: ...

    @property
    def content(self) -> ContentStore: ...

    def snapshotter(self, name: str = "") -> Mounter: ...


class Records(Protocol):
    """What the runtime needs of the metadata."""

    def bind(self, namespace: str, lease: str = "") -> View: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts of one runtime. Bundles of tasks and of sandboxes lie in folders of their own."""

    config: RuntimeConfig
    bus: EventBus
    records: Records
    task_folder: Path
    sandbox_folder: Path
    ledger: Ledger
    announcer: Announcer
    jobs: Jobs
    resolver: Resolver
    shims: Shims
    cgroup_lock: CgroupLock
