"""Namespaces: one world of clients each (`containerd.services.namespaces.v1`)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from moorage_api.types import Labels


@runtime_checkable
class NamespaceStore(Protocol):
    """All namespaces. Thread-safe. Changes are published (`/namespaces/create`, `update`, `delete`).

    As in containerd, writing an object creates its namespace when it is not there yet.
    """

    def create(self, name: str, labels: Labels | None = None) -> None:
        """`AlreadyExists`, `InvalidArgument`."""

    def labels(self, name: str) -> dict[str, str]:
        """`NotFound`."""

    def set_labels(self, name: str, labels: Labels, *, replace: bool = False) -> dict[str, str]:
        """Set these labels (an empty value removes one); with `replace`, these and no others. Returns all. `NotFound`."""

    def list(self) -> list[str]:
        """By name."""

    def delete(self, name: str) -> None:
        """`NotFound`; `FailedPrecondition` that counts what is still in it (images, containers, content, snapshots,
        leases, sandboxes)."""
