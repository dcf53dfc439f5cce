"""A command line from a dataclass of settings, and how a command ends when something is wrong."""

import contextlib
import dataclasses
import difflib
import logging
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

import click

from adipocyte import __version__
from adipocyte.config import build, choices, spelled
from adipocyte.errors import AdipocyteError, StoppedError
from adipocyte.system.failures import explained, one_line, without_passwords

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOOPBACK = "localhost,127.0.0.1,::1"
# `main` and `tune` set the first for the steps that they run, and want the work of these done.
_OF_MAIN = ("target", "segmenter", "resume", "look")


def command(
    kind: "type[DataclassInstance]", *forwarded: "type[DataclassInstance]", records: bool = True
) -> Callable[[FunctionType], click.Command]:
    """Decorate a function of a *kind* of config, so that each field becomes an option.

    Options are spelt `--epoch_steps` or `--epoch-steps`. The fields of *forwarded* kinds that
    *kind* lacks become options too; those that are given reach the function as a second argument,
    a dict. Whatever goes wrong ends in one paragraph and exit status 2. A command that *records*
    runs is refused at once when their database or server takes nothing.
    """

    def decorate(run: FunctionType) -> click.Command:
        own = {field.name: _option(kind, field) for field in dataclasses.fields(kind)}
        others = {
            field.name: _option(other, field)
            for other in forwarded
            for field in dataclasses.fields(other)
            if field.name not in _OF_MAIN
        }

        def callback(**values: Any) -> None:
            given = {name: value for name, value in values.items() if value is not None}
            config = build(kind, {name: value for name, value in given.items() if name in own})
            extra = {name: value for name, value in given.items() if name not in own}
            keep_loopback_direct()
            if records:
                from adipocyte.delivery.runs.tracking import require_tracking

                # It writes a traceback of each error that it raises, and those are told here.
                logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
                require_tracking()
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
            status = super().main(*args, **kwargs, standalone_mode=False)
            sys.stdout.flush()  # here, because a full disk is told at the end otherwise
            return status
        except StoppedError as error:
            _end(f"Stopped: {error}", 130)
        except (KeyboardInterrupt, click.Abort):
            _end("Interrupted. Saved work is kept; the raw plate is unchanged.", 130)
        except click.UsageError as error:
            _end(f"Error: {self._sentence(error)}", 2)
        except AdipocyteError as error:
            _end(f"Error: {error}", 2)
        except Exception as error:
            _end(f"Error: {self._reason(error)}", 2)

    def _reason(self, error: Exception) -> str:
        """What a library's error says, in this project's words where they are known."""
        if known := explained(error, [param.name or "" for param in self.params]):
            return str(known)
        # By its name, because importing MLflow takes seconds and `--help` answers at once.
        if "MlflowException" in [kind.__name__ for kind in type(error).__mro__]:
            advice = "see that its server or database can be reached"
            return f"MLflow could not do its part ({one_line(error)}): {advice}"
        said = f"{type(error).__name__}: {one_line(error)}"
        return (
            f"{self.name} failed in a way that it does not know ({said}): {_logged(error)}, and "
            "send that file to those who maintain this project for you"
        )

    def _sentence(self, error: click.UsageError) -> str:
        if not isinstance(error, click.NoSuchOption):
            return error.format_message()
        wrong = error.option_name.lstrip("-").replace("-", "_")
        names = [param.name or "" for param in self.params]
        close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
        hint = f"did you mean -P {close[0]}=…? " if close else ""
        return (
            f"{self.name} has no setting {wrong!r}; {hint}Its settings are {', '.join(names)}. "
            f"See python -m entrypoints.{self.name} --help"
        )


def _end(sentence: str, status: int) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody may be reading
        click.echo(sentence, err=True)
    sys.exit(status)


def _logged(error: Exception) -> str:
    """Write the traceback into a new file that only its owner can read. Says where it lies."""
    lines = [
        f"adipocyte {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{without_passwords(' '.join(sys.argv))}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        descriptor, path = tempfile.mkstemp(prefix="adipocyte-", suffix=".log")
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.writelines(lines)
    except OSError as refused:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"see {place.filename}, line {place.lineno}; no log could be written ({refused})"
    return f"see its traceback in {path}"


def keep_loopback_direct() -> None:
    """Let no request to this machine go through a proxy of the environment, which cannot reach it.

    The libraries that ask (requests, httpx) and the processes that are started obey `no_proxy`.
    """
    if any(
        os.environ.get(f"{scheme}_proxy".upper()) or os.environ.get(f"{scheme}_proxy")
        for scheme in ("http", "https", "all")
    ):
        before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        direct = ",".join(filter(None, [before, LOOPBACK]))
        os.environ.update(no_proxy=direct, NO_PROXY=direct)


def _option(kind: "type[DataclassInstance]", field: dataclasses.Field) -> click.Option:
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
    allowed = (True, False) if annotation is bool else choices(annotation)
    notes = ["one of " + ", ".join(map(spelled, allowed))] if allowed else []
    if low is not None or high is not None:
        notes.append(f"at least {low}" if high is None else f"{low} to {high}")
    is_required = field.default is dataclasses.MISSING
    notes.append("required" if is_required else f"default {_shown(field.default)}")
    notes += [f"{recipe} {_shown(value)}" for recipe, value in field.metadata["recipes"].items()]
    return f"{field.metadata['help']} [{'; '.join(notes)}]"


def _shown(value: Any) -> str:
    return spelled(value) or "empty"


def only(kind: "type[DataclassInstance]", settings: dict[str, Any]) -> dict[str, Any]:
    """Those of *settings* that *kind* has."""
    return {
        field.name: settings[field.name]
        for field in dataclasses.fields(kind)
        if field.name in settings
    }


def next_command(entry_point: str, store: Path, **settings: Any) -> str:
    """The command that comes after this one, on the same store."""
    given = settings | ({} if store == Path("prepared") else {"store": store})
    words = [f"-P {shlex.quote(f'{name}={spelled(value)}')}" for name, value in given.items()]
    return " ".join([f"mlflow run . -e {entry_point}", *words])
