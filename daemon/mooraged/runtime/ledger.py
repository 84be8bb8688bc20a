"""The tasks that the daemon knows, by namespace and id."""

from __future__ import annotations

from moorage_api.errors import AlreadyExists, NotFound
from mooraged.runtime.processes import Task
from mooraged.runtime.shim import Shim


class Ledger:
    """All tasks of all namespaces, those being created too; these hold their ids but are not shown."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, Task]] = {}

    def reserve(self, task: Task) -> None:
        """Take the task's id. `AlreadyExists`."""
        tasks = self._tasks.setdefault(task.namespace, {})
        if task.id in tasks:
            raise AlreadyExists(f"task {task.id} already exists")
        tasks[task.id] = task

    def drop(self, task: Task) -> None:
        """Forget the task; no other that took its id since."""
        tasks = self._tasks.get(task.namespace, {})
        if tasks.get(task.id) is task:
            del tasks[task.id]
            if not tasks:
                del self._tasks[task.namespace]

    def find(self, namespace: str, id: str) -> Task | None:
        """The task, even while it is being created."""
        return self._tasks.get(namespace, {}).get(id)

    def get(self, namespace: str, id: str) -> Task:
        """`NotFound`."""
        task = self.find(namespace, id)
        if task is None or not task.ready:
            raise NotFound(f"task {id} not found")
        return task

    def tasks(self, namespace: str) -> list[Task]:
        """Those of one namespace, by id."""
        return sorted(
            (task for task in self._tasks.get(namespace, {}).values() if task.ready), key=lambda task: task.id
        )

    def of_shim(self, shim: Shim) -> list[Task]:
        """All tasks that the shim runs, those being created too."""
        return [task for tasks in self._tasks.values() for task in tasks.values() if task.shim is shim]
