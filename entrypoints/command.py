"""A command line from a dataclass of settings, and the way every command ends when something is wrong."""

import dataclasses
import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import click

from adipocyte.config import build, choices, spelled
from adipocyte.errors import AdipocyteError, StoppedError


def command(kind: type, *forwarded: type) -> Callable[[Callable[..., None]], click.Command]:
    """Decorate a function of a *kind* of config. Each field becomes an option, `--epoch_steps` or `--epoch-steps`.

    The fields of *forwarded* kinds that *kind* lacks become options too; those that were given reach the function as a second
    argument, a dict. A mistake of the caller's ends in one paragraph and exit status 2.
    """

    def decorate(run: Callable[..., None]) -> click.Command:
        own = {field.name: _option(kind, field) for field in dataclasses.fields(kind)}
        others = {
            field.name: _option(other, field)
            for other in forwarded
            for field in dataclasses.fields(other)
            if field.name not in ("target", "segmenter", "resume")  # `main`'s own business
        }

        def callback(**values: Any) -> None:
            given = {name: value for name, value in values.items() if value is not None}
            config = build(kind, {name: value for name, value in given.items() if name in own})
            extra = {name: value for name, value in given.items() if name not in own}
            run(config, extra) if forwarded else run(config)

        return _Command(
            run.__name__,
            callback=callback,
            params=list({**others, **own}.values()),
            help=run.__doc__,
        )

    return decorate


class _Command(click.Command):
    """A click command that says what is wrong in this project's words."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs, standalone_mode=False)
        except StoppedError as error:
            click.echo(f"Stopped: {error}", err=True)
            sys.exit(130)
        except (AdipocyteError, click.UsageError) as error:
            click.echo(f"Error: {self._sentence(error)}", err=True)
            sys.exit(2)
        except Exception as error:
            if "MlflowException" not in [
                kind.__name__ for kind in type(error).__mro__
            ]:  # by name, for importing MLflow takes seconds
                raise
            click.echo(
                f"Error: MLflow could not do its part ({error}): see that its server or database can be reached",
                err=True,
            )
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo(
                "Stopped at once. What was saved is kept; the raw plate is as it was.", err=True
            )
            sys.exit(130)

    def _sentence(self, error: Exception) -> str:
        if not isinstance(error, click.NoSuchOption):
            return error.format_message() if isinstance(error, click.UsageError) else str(error)
        wrong = error.option_name.lstrip("-").replace("-", "_")
        names = [param.name for param in self.params]
        close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
        hint = f"did you mean -P {close[0]}=…? " if close else ""
        return f"{self.name} has no setting {wrong!r}; {hint}Its settings are {', '.join(names)}. See python -m entrypoints.{self.name} --help"


def _option(kind: type, field: dataclasses.Field) -> click.Option:
    spellings = dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"])
    annotation = get_type_hints(kind)[field.name]
    return click.Option(
        [*spellings, field.name],
        type=_typed(annotation),
        default=None,
        help=_help(field, annotation),
    )


def _typed(annotation: Any) -> type:
    """What click reads: a number, or text, which `config.build` reads further."""
    if allowed := choices(annotation):
        return type(allowed[0])
    return annotation if annotation in (int, float) else str


def _help(field: dataclasses.Field, annotation: Any) -> str:
    """The setting's help, then its choices, range, default and its value under each recipe."""
    low, high = field.metadata["low"], field.metadata["high"]
    allowed = ("true", "false") if annotation is bool else choices(annotation)
    notes = ["one of " + ", ".join(map(str, allowed))] if allowed else []
    if low is not None or high is not None:
        notes.append(f"at least {low}" if high is None else f"{low} to {high}")
    is_required = field.default is dataclasses.MISSING
    notes.append("required" if is_required else f"default {_shown(field.default)}")
    notes += [f"{recipe} {_shown(value)}" for recipe, value in field.metadata["recipes"].items()]
    return f"{field.metadata['help']} [{'; '.join(notes)}]"


def _shown(value: Any) -> str:
    return (
        repr(value)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        else repr(spelled(value))
    )


def only(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of *settings* that *kind* has."""
    return {
        field.name: settings[field.name]
        for field in dataclasses.fields(kind)
        if field.name in settings
    }


def next_command(entry_point: str, store: Path, **settings: Any) -> str:
    """The command that comes after this one, on the same store."""
    given = settings | ({} if store == Path("prepared") else {"store": store})
    words = [f"-P {name}={spelled(value)}" for name, value in given.items()]
    return " ".join([f"mlflow run . -e {entry_point}", *words])
