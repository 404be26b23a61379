"""Columns and roles by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.heads.ablation import ComponentKind, component_columns
from clipaudit.heads.roles import Role
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.reader import Run
from clipaudit.schema import as_tuples

COMPONENT_KINDS: Final[Mapping[str, ComponentKind]] = MappingProxyType(
    {"self-attention": "self_attention", "attention": "attention", "mlp": "mlp"}
)
"""What `--components` takes, beside the names of columns."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which columns a user names."""

    heads: tuple[str, ...] = ()
    layers: str | None = None
    """Every stored head of these layers; as in `audit`."""
    mlps: str | None = None
    """`all` stored, or layers."""
    components: tuple[str, ...] = ()
    """Kinds of components, `self-attention`, `attention` or `mlp` for all stored layers, or columns: `mlp_L11`."""
    roles: tuple[str, ...] = ()
    """Properties or kinds of the pool: every head with such a role."""

    def __post_init__(self) -> None:
        as_tuples(self, "heads", "components", "roles")

    def __bool__(self) -> bool:
        return bool(self.heads or self.layers or self.mlps or self.components or self.roles)


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
