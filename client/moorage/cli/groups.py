"""Groups of verbs: docker's long forms (`image ls`, `container rm`), and what belongs to the daemon as a whole."""

from __future__ import annotations

import click

from moorage.cli.lazy import LazyGroup

image = LazyGroup(
    "image",
    {
        "convert": "archives:convert",
        "history": "history:history",
        "import": "importing:import_",
        "inspect": "inspect:image_inspect",
        "load": "archives:load",
        "ls": "images:images",
        "prune": "housekeeping:image_prune",
        "pull": "images:pull",
        "push": "archives:push",
        "rm": "images:rmi",
        "save": "archives:save",
        "tag": "history:tag",
    },
    help="Images: what containers are made of.",
)

container = LazyGroup(
    "container",
    {
        "attach": "lifecycle:attach_verb",
        "commit": "change:commit",
        "cp": "copy:cp",
        "create": "run:create",
        "diff": "observe:diff",
        "exec": "execute:exec",
        "inspect": "inspect:container_inspect",
        "kill": "lifecycle:kill",
        "logs": "logs:logs",
        "ls": "ps:ps",
        "pause": "change:pause",
        "port": "observe:port",
        "prune": "housekeeping:container_prune",
        "rename": "change:rename",
        "restart": "change:restart",
        "rm": "lifecycle:rm",
        "run": "run:run",
        "start": "lifecycle:start",
        "stats": "observe:stats",
        "stop": "lifecycle:stop",
        "top": "observe:top",
        "unpause": "change:unpause",
        "update": "change:update",
        "wait": "lifecycle:wait",
    },
    help="Containers, in docker's long form.",
)

system = LazyGroup(
    "system",
    {
        "df": "disk:df",
        "events": "events:events",
        "gc": "disk:gc",
        "info": "system:info",
        "prune": "housekeeping:system_prune",
    },
    help="The daemon as a whole.",
)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell: `source <(moorage completion bash)`."""
    from click.shell_completion import get_completion_class

    from moorage.cli.app import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    print(kind(cli, {}, "moorage", "_MOORAGE_COMPLETE").source())
