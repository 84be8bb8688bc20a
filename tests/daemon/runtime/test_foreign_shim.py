"""Tasks in Debian's containerd-shim-runc-v2, which speaks the protocol of containerd 1.6."""

from __future__ import annotations

from moorage_api.runtime import Status
from support.runtime import World


async def test_a_task_lives_and_dies(world: World) -> None:
    id = world.container("life", "sh", "-c", "exit 7")
    created = await world.tasks.create(id)
    assert created.status is Status.CREATED
    assert created.pid > 0
    assert world.tasks.list() == [created]
    assert await world.tasks.start(id) == created.pid
    exit = await world.tasks.wait(id)
    assert (exit.status, exit.pid) == (7, created.pid)
    assert world.tasks.get(id).status is Status.STOPPED
    assert await world.tasks.delete(id) == exit
    await world.until(lambda: "/tasks/delete" in world.topics(id), "the deletion is told")
    assert world.topics(id) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert world.leftovers() == []
