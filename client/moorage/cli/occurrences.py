"""Events in docker's words: what happened to what, and what is known of it.

containerd tells of records and tasks; docker's users look for a container's `start`, `die` and `destroy`, with its name, its
image and its labels. Source of the words: https://docs.docker.com/reference/cli/docker/system/events/.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moorage.cli.filters import has_label
from moorage.cli.references import brief, familiar, repository
from moorage.cli.units import rfc3339
from moorage.client import Client
from moorage.events import decode_event
from moorage.labels import NAME
from moorage_api import health
from moorage_api.errors import MoorageError
from moorage_api.events import Envelope

_CONTAINER, _IMAGE = "container", "image"
_SECOND = 1_000_000_000
_WORDS = {
    "/containers/create": (_CONTAINER, "create"),
    "/containers/update": (_CONTAINER, "update"),
    "/containers/delete": (_CONTAINER, "destroy"),
    "/tasks/start": (_CONTAINER, "start"),
    "/tasks/exit": (_CONTAINER, "die"),
    "/tasks/oom": (_CONTAINER, "oom"),
    "/tasks/paused": (_CONTAINER, "pause"),
    "/tasks/resumed": (_CONTAINER, "unpause"),
    "/tasks/checkpointed": (_CONTAINER, "checkpoint"),
    "/tasks/exec-added": (_CONTAINER, "exec_create"),
    "/tasks/exec-started": (_CONTAINER, "exec_start"),
    "/images/create": (_IMAGE, "tag"),
    "/images/update": (_IMAGE, "tag"),
    "/images/delete": (_IMAGE, "untag"),
}
_SUBJECTS = {"images": _IMAGE, "containers": _CONTAINER, "tasks": "task", "namespaces": "namespace", "leases": "lease"}
_IDS = ("container_id", "id", "name", "key", "digest")
_INTERNAL = ("moorage.io/", "containerd.io/")

FILTERS = ("container", "event", "image", "label", "type")
"""docker's keys that say something here."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One event: `action` happened to the `kind` of thing that is called `id`. `fields` are containerd's."""

    envelope: Envelope
    fields: Mapping[str, Any]
    kind: str
    action: str
    id: str
    attributes: Mapping[str, str]

    def fits(self, key: str, value: str) -> bool:
        """Whether it passes a filter, of those in `FILTERS`."""
        match key:
            case "type":
                return self.kind == value
            case "event":
                return value in (self.action, self.action.partition(":")[0])
            case "container":
                name = self.attributes.get("name", "")
                return self.kind == _CONTAINER and (self.id.startswith(value) or name.startswith(value))
            case "image":
                image = self.id if self.kind == _IMAGE else self.attributes.get("image", "")
                return bool(image) and brief(value) in (brief(image), repository(image))
        return has_label(self.attributes, value)

    def line(self, *, everywhere: bool) -> str:
        """As docker prints it, with the namespace where those of `everywhere` are asked for."""
        told = ", ".join(f"{key}={value}" for key, value in sorted(self.attributes.items()))
        words = [rfc3339(self.envelope.timestamp), self.kind, self.action, self.id, f"({told})" if told else ""]
        return " ".join(
            word for word in [*words[:1], self.envelope.namespace if everywhere else "", *words[1:]] if word
        )

    def document(self) -> dict[str, Any]:
        """docker's keys, and containerd's event."""
        seen = {"status": self.action, "id": self.id} if self.kind in (_CONTAINER, _IMAGE) else {}
        image = {"from": self.attributes["image"]} if "image" in self.attributes else {}
        return {
            **seen,
            **image,
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": self.envelope.timestamp // _SECOND,
            "timeNano": self.envelope.timestamp,
            "Namespace": self.envelope.namespace,
            "Topic": self.envelope.topic,
            "Event": self.fields,
        }

    def row(self) -> dict[str, Any]:
        """The same for templates, which call the fields as docker's do."""
        document = self.document()
        names = {
            "status": "Status",
            "id": "ID",
            "from": "From",
            "scope": "Scope",
            "time": "Time",
            "timeNano": "TimeNano",
        }
        named = {new: document.get(old, "") for old, new in names.items()}
        actor = {"ID": self.id, "Attributes": defaultdict(str, self.attributes)}
        return {**document, **named, "Actor": actor}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a container; empty where it was gone when it was asked for."""

    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def attributes(self) -> dict[str, str]:
        """As docker tells it."""
        own = {key: value for key, value in self.labels.items() if not key.startswith(_INTERNAL)}
        told = {"image": brief(self.image) if self.image else "", "name": self.labels.get(NAME, "")}
        return {**own, **{key: value for key, value in told.items() if value}}


class Observer:
    """Puts events into docker's words. It keeps what is known of containers: one that is gone is asked for too late."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], _Known] = {}

    async def begin(self, since: int | None = None, *, everywhere: bool = False) -> None:
        """Look at what there is, so that the end of a container can be told with its name; and at what the events `since` a
        time tell of containers that are gone."""
        if since is not None:
            now = time.time_ns()
            async for envelope in self._client.events.subscribe(
                "topic~=^/containers/", since=since, until=now, everywhere=everywhere
            ):
                self._learn(envelope, decode_event(envelope.event))
        for record in await self._client.containers.list():
            self._known[self._client.namespace, record.id] = _Known(record.image, record.labels)

    def _learn(self, envelope: Envelope, fields: Mapping[str, Any]) -> None:
        """Keep what a container's own events tell."""
        key = envelope.namespace, str(fields.get("id", ""))
        before = self._known.get(key, _Known())
        self._known[key] = _Known(fields.get("image") or before.image, fields.get("labels") or before.labels)

    async def observe(self, envelope: Envelope) -> Occurrence:
        """The event, with what is known of its container."""
        fields = decode_event(envelope.event)
        kind, action = _words(envelope.topic)
        id = next((str(fields[name]) for name in _IDS if name in fields), "")
        if kind != _CONTAINER:
            id = familiar(id) if kind == _IMAGE else id
            told = {
                key: str(value) for key, value in fields.items() if key not in _IDS and isinstance(value, str | int)
            }
            return Occurrence(envelope, fields, kind, action, id, told)
        before = self._known.get((envelope.namespace, id))
        known = await self._look(envelope, id, fields)
        attributes = known.attributes()
        if envelope.topic == "/tasks/exit":
            attributes["exitCode"] = str(fields.get("exit_status", 0))
            if fields.get("id", id) != id:
                action, attributes["execID"] = "exec_die", str(fields["id"])
        elif "exec_id" in fields:
            attributes["execID"] = str(fields["exec_id"])
        state = known.labels.get(health.STATUS, "")
        if action == "update" and before is not None and state and before.labels.get(health.STATUS) != state:
            action = f"health_status: {state}"
        return Occurrence(envelope, fields, kind, action, id, attributes)

    async def _look(self, envelope: Envelope, id: str, fields: Mapping[str, Any]) -> _Known:
        """What is known of a container by now."""
        key = envelope.namespace, id
        if envelope.topic == "/containers/delete":
            return self._known.pop(key, _Known())
        if envelope.topic == "/containers/update":
            self._learn(envelope, fields)
        if key not in self._known:
            try:
                record = await self._client.in_namespace(envelope.namespace).containers.get(id)
                self._known[key] = _Known(record.image, record.labels)
            except MoorageError:
                # Gone by now.
                self._learn(envelope, fields if envelope.topic == "/containers/create" else {"id": id})
        return self._known[key]


def _words(topic: str) -> tuple[str, str]:
    if topic in _WORDS:
        return _WORDS[topic]
    subject, _, action = topic.strip("/").partition("/")
    return _SUBJECTS.get(subject, subject), action
