"""The class of every command: it has `--quiet`, and an option that takes one value is refused when given again."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from clipaudit.cli.terminal import silenced
from clipaudit.errors import UsageError

_QUIET = "quiet"


class Command(TyperCommand):
    """A command with `--quiet`, whose options take one value, unless they are declared as lists.

    click alone keeps the last of several values and drops the others in silence.
    """

    def __init__(self, *arguments: Any, params: list[Any] | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, params=[*(params or []), _quiet_option()], **keywords)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - of click, or of typer's copy of it
        """Run the command, silent as `--quiet` says; its function does not see that option."""
        with silenced(ctx.params.pop(_QUIET)):
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - of click, or of typer's copy of it
        """Parse as click does. Raises UsageError naming an option that is given again and takes one value."""
        # click's parser changes the list that it is given; `order` has one entry for each option as it was given
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = Counter(id(parameter) for parameter in order if _takes_one(parameter))
        for parameter in self.params:
            if given[id(parameter)] > 1:
                names = " or ".join((*parameter.opts, *parameter.secondary_opts))
                what = "it is a switch" if getattr(parameter, "is_flag", False) else "it takes one value"
                raise UsageError(f"{names} is given {_times(given[id(parameter)])}, and {what}: keep one of them")
        return super().parse_args(ctx, args)


def _quiet_option() -> Any:  # noqa: ANN401 - as above
    """The option as typer makes it of a declaration: its class takes other arguments from version to version."""

    def declared(
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="Print results, notes and errors only: no plan, progress, advice.")
        ] = False,
    ) -> None: ...

    carrier = typer.Typer(add_completion=False)
    carrier.command()(declared)
    return typer.main.get_command(carrier).params[0]


def _takes_one(parameter: Any) -> bool:  # noqa: ANN401 - as above
    """Whether the parameter is an option for one value; `--help` and `--version` end the program, however often."""
    return parameter.param_type_name == "option" and not parameter.multiple and not parameter.is_eager


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
