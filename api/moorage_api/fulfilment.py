"""Whether what a plugin made is what its type says: asked before anybody calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from moorage_api.content import ContentStore
from moorage_api.differ import Differ
from moorage_api.plugin import PluginType
from moorage_api.snapshots import Snapshotter

_CONTRACTS: dict[str, type] = {
    PluginType.SNAPSHOTTER: Snapshotter,
    PluginType.CONTENT: ContentStore,
    PluginType.DIFFER: Differ,
}
# Arguments that a contract got later: a plugin written before it has not got them, and callers leave them out.
_LATER = frozenset((("commit", "parent"),))


def contract_problem(type: str, instance: object) -> str:
    """Why an object cannot be the instance of a plugin of this type; empty where it can, or where the type has no contract
    that could be asked for here. What its methods do, only the conformance suites can tell."""
    contract = _CONTRACTS.get(type)
    if contract is None:
        return ""
    kind = instance.__class__.__name__
    for name, declared in vars(contract).items():
        if name.startswith("_") or not inspect.isfunction(declared):
            continue
        method = getattr(instance, name, None)
        if not callable(method):
            return f"init returned a {kind}, which has no method {name}: it is no {contract.__name__}"
        problem = _call_problem(name, declared, method)
        if problem:
            return f"{kind}.{name} cannot be called as {contract.__name__}.{name} is: {problem}"
    return ""


def _call_problem(name: str, declared: Callable[..., Any], method: Callable[..., Any]) -> str:
    """What is wrong with the signature of a method, as calls of the contract find it."""
    parameters = list(inspect.signature(declared).parameters.values())[1:]
    positional = [None for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = {
        each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY and (name, each.name) not in _LATER
    }
    try:
        inspect.signature(method).bind(*positional, **named)
    except TypeError as error:
        return str(error)
    except ValueError:
        # It has no signature that could be asked for.
        return ""
    return ""
