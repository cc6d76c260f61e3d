"""What several commands share."""

import threading
from collections.abc import Callable, Sequence

import click

from pymachine.commands import Session
from pymachine.errors import InvalidInput, MachineError
from pymachine.machine import Machine, load, locked
from pymachine.names import DEFAULT
from pymachine.progress import Progress

_PARALLEL = 8

one_machine = click.argument("name", metavar="MACHINE", default=DEFAULT)
machines = click.argument("names", metavar="MACHINE...", nargs=-1)


def wanted(session: Session, names: Sequence[str]) -> list[str]:
    """The names given, each once, else the machine called "default". Raises for unknown ones before anything is done."""
    chosen = list(dict.fromkeys(names))
    if not chosen:
        if not session.store.exists(DEFAULT):
            raise InvalidInput("no machine named", detail=f"and there is none called {DEFAULT!r}")
        chosen = [DEFAULT]
    for name in chosen:
        if not session.store.exists(name):
            session.store.load(name)  # raises NotFound with its hint
    return chosen


def get(session: Session, name: str) -> Machine:
    """A machine to look at."""
    return load(session.store, name, session.progress)


def change(session: Session, names: Sequence[str], purpose: str, action: Callable[[Machine], object]) -> None:
    """Do something with several machines at once, each under its lock."""
    chosen = wanted(session, names)

    def work(name: str, progress: Progress) -> None:
        with locked(session.store, name, purpose, progress) as machine:
            action(machine)

    for_each(session, chosen, work)


def for_each(session: Session, names: Sequence[str], work: Callable[[str, Progress], None]) -> None:
    """Run `work` for each machine in parallel; all get their turn, then the errors are raised as one."""
    if len(names) == 1:
        work(names[0], session.progress)
        return
    errors: dict[str, MachineError] = {}
    slots = threading.Semaphore(_PARALLEL)

    def guarded(name: str) -> None:
        with slots:
            try:
                work(name, session.progress.named(name))
            except MachineError as error:
                errors[name] = error

    threads = [threading.Thread(target=guarded, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise MachineError("; ".join(f"{name}: {errors[name]}" for name in names if name in errors))
