"""Columns and roles by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.heads.ablation import ComponentKind, component_columns
from clipaudit.heads.roles import Role
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.reader import Run

COMPONENT_KINDS: Final[Mapping[str, ComponentKind]] = MappingProxyType(
    {"self-attention": "self_attention", "attention": "attention", "mlp": "mlp"}
)
"""What `--components` takes, beside the names of columns."""


def named_components(run: Run, name: str) -> tuple[str, ...]:
    """The columns that one value of `--components` names."""
    if name in COMPONENT_KINDS:
        return component_columns(run, COMPONENT_KINDS[name])
    if "_L" not in name:
        raise UsageError(
            f"--components {name}: it takes {', '.join(COMPONENT_KINDS)}, or columns such as self_attention_L11"
        )
    return (name,)


def check_roles(pool: TextPool | None, wanted: Sequence[str]) -> None:
    """UsageError for a role that the texts cannot give."""
    known = set() if pool is None else {*pool.properties, *pool.kinds}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(
            f"--role {unknown[0]}: the texts have no such property or kind; there is {', '.join(sorted(known))}"
        )


def heads_with(wanted: Sequence[str], roles: Sequence[Role]) -> list[str]:
    """The heads whose role has one of these properties or kinds; UsageError when there is none."""
    heads = [role.head for role in roles if role.label in wanted or role.kind in wanted]
    if not heads:
        labels = sorted({role.label for role in roles if role.label is not None})
        raise UsageError(f"no head has the role {' or '.join(wanted)}; roles found: {', '.join(labels) or 'none'}")
    return heads
