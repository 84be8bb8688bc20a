"""One call of one CNI plugin (CNI specification, section 2: the execution protocol)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from moorage_api.cni.call import Attachment, Result, environment, parse_result
from moorage_api.errors import MoorageError, NotFound, Unavailable
from moorage_cri.cni import process
from moorage_cri.concurrency import finish


class Plugins:
    """The plugins in some folders. `timeout` is in seconds, for each call."""

    def __init__(self, folders: Sequence[str], timeout: float) -> None:
        self._folders = tuple(folders)
        self._timeout = timeout

    async def call(self, command: str, attachment: Attachment, config: Mapping[str, Any]) -> Result:
        """Run the plugin that `config` names with `command` (ADD, DEL, CHECK); its result, empty where it has none.

        `NotFound` for a plugin that is not there, `DeadlineExceeded`, and `Unavailable` with its own message where it
        reports an error. A cancelled caller waits until the plugin has ended, at most its timeout: plugins that are
        killed half-way leave what no DEL mends (a bridge without an address is one).
        """
        kind = config["type"]
        path = self.find(kind)
        done = await finish(
            process.run([path], self._environment(command, attachment), json.dumps(config).encode(), self._timeout)
        )
        if done.status != 0:
            raise Unavailable(f"CNI plugin {kind} failed ({command}): {_reason(done)}")
        return parse_result(done.stdout, kind)

    def find(self, kind: str) -> str:
        """The path of a plugin's program. `NotFound`, naming the folders."""
        for folder in self._folders:
            path = os.path.join(folder, kind)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
        raise NotFound(f"CNI plugin {kind} is not in {', '.join(self._folders)}")

    def _environment(self, command: str, attachment: Attachment) -> dict[str, str]:
        return {**os.environ, **environment(command, attachment, self._folders)}


def _reason(done: process.Completed) -> str:
    """What a failed plugin says: its error object on standard output, or else the end of its standard error."""
    try:
        error = parse_result(done.stdout, "")
    except MoorageError:
        error = {}
    text = "; ".join(str(error[key]) for key in ("msg", "details") if error.get(key))
    if not text:
        text = done.stderr.decode("utf-8", "replace").strip()[-1000:]
    ending = f"exit code {done.status}" if done.status > 0 else f"killed by signal {-done.status}"
    return text or ending
