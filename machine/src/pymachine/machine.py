"""A machine: what the store knows, its driver, and what one does with both."""

import contextlib
import datetime
from collections.abc import Generator, Sequence
from pathlib import Path

from pymachine import certs, drivers
from pymachine.drivers.base import Context, Driver, State
from pymachine.errors import Conflict, MachineError, NotFound
from pymachine.files import make_private, write_atomic
from pymachine.journal import Journal, Step, run_steps
from pymachine.progress import Progress
from pymachine.provision.bundle import check_available, choose
from pymachine.provision.host import probe
from pymachine.provision.install import Installed, Payload, install
from pymachine.provision.settings import daemon_settings, encode
from pymachine.record import EngineOptions, MachineFiles, MachineRecord
from pymachine.ssh import ParamikoTransport, connect, wait_for_login
from pymachine.store import Store

_BOOT_SECONDS = 120.0
_ENGINE_SECONDS = 60.0


class Machine:
    """One machine of the store. Making the object asks nobody."""

    def __init__(self, store: Store, record: MachineRecord, progress: Progress) -> None:
        self.store = store
        self.record = record
        self.progress = progress
        self.files: MachineFiles = store.files(record.name)
        context = Context(record.name, self.files, store.root, progress)
        self.driver: Driver = drivers.find(record.driver_name)(context, record.driver)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def has_engine(self) -> bool:
        """Did pymachine put the engine there?"""
        return self.driver.has_ssh and self.record.engine.install

    @property
    def certificates(self) -> Path | None:
        """The folder a Docker client needs; None when pymachine made no certificates for the machine."""
        return self.files.folder if self.has_engine else None

    def half_made(self) -> str:
        """What to say about an unfinished create; empty when the machine is whole."""
        journal = Journal(self.files.journal)
        if not journal.exists:
            return ""
        after = f" after {journal.completed[-1]}" if journal.completed else ""
        return f"its create stopped{after}; repeat it, or run 'pymachine rm {self.name}'"

    def save(self) -> None:
        """Write the record; the machine's lock must be held."""
        self.store.save(self.record)

    def connect(self) -> ParamikoTransport:
        """Log in; the caller closes."""
        self.need_ssh()
        return connect(self.driver.target())

    def need_running(self) -> None:
        """Raises Conflict when the machine does not run."""
        state = self.driver.state()
        if state is not State.RUNNING:
            raise Conflict(f"machine {self.name!r} is not running", detail=f"it is {state or 'unknown'}")

    def url(self) -> str:
        """Where its engine listens; empty for a bare host."""
        if self.driver.has_ssh and not self.record.engine.install:
            return ""
        return self.driver.engine_url(self.record.engine.port)

    def engine_version(self, *, timeout: float = 10.0) -> str:
        """Ask the engine itself."""
        from pymachine import engine

        return engine.version(self.url(), self.certificates, timeout=timeout)

    def server_names(self) -> list[str]:
        """What the server certificate must be valid for."""
        return [self.driver.address(), self.name, "localhost", "127.0.0.1", *self.record.engine.sans]

    # changing it; the lock must be held

    def start(self) -> None:
        self._need_whole()
        self.progress.say(f"Starting {self.name!r}")
        self.driver.start()
        self._after_boot()

    def stop(self) -> None:
        self.progress.say(f"Stopping {self.name!r}")
        self.driver.stop()

    def kill(self) -> None:
        self.progress.say(f"Killing {self.name!r}")
        self.driver.kill()

    def restart(self) -> None:
        self._need_whole()
        self.progress.say(f"Restarting {self.name!r}")
        self.driver.restart()
        self._after_boot()

    def provision(
        self, bundle: str = "", *, keep_bundle: bool = False, new_certificate: bool = False
    ) -> Installed:
        """Bring the engine to the wanted release, settings and certificates, and see it answer.

        `keep_bundle` leaves the host the release that it runs; without it the newest one here is installed.
        """
        self._need_engine()
        engine = self.record.engine
        with contextlib.closing(self.connect()) as transport:
            host = probe(transport)
            self.progress.say(f"The machine runs {host.os_name} on {host.arch}")
            wanted = bundle or (engine.bundle if Path(engine.bundle).is_file() else "")
            found = None if keep_bundle else choose(wanted, host.arch)
            payload = Payload(
                bundle=found,
                settings=encode(daemon_settings(engine)),
                authority=self._authority().certificate,
                server=self._server_certificate(renew=new_certificate),
                cache=engine.cache,
            )
            with self.progress.live():
                done = install(transport, host, payload, self.progress)
        self.check_engine()
        return done

    def check_engine(self) -> None:
        """Wait until the engine answers over TLS."""
        from pymachine import engine

        self.progress.say("Checking the engine")
        found = engine.wait(
            self.url(),
            self.certificates,
            seconds=_ENGINE_SECONDS,
            tick=lambda: self.progress.detail("waiting for the engine"),
        )
        self.progress.say(f"Engine {found} answers on {self.url()}")

    def remove(self, *, force: bool = False) -> None:
        """Remove the machine where it lives, then forget it. With `force` it is forgotten in any case."""
        try:
            self.driver.remove()
        except MachineError as cause:
            if not force:
                raise
            self.progress.say(
                f"cannot remove machine {self.name!r} where it lives, only forgetting it: {cause}"
            )
        self.store.delete(self.name)

    def _after_boot(self) -> None:
        """Wait for login and engine; a machine that came back with another address gets another certificate."""
        self.save()
        if not self.driver.has_ssh:
            return
        self.progress.say("Waiting for SSH")
        wait_for_login(
            self.driver.target,
            seconds=_BOOT_SECONDS,
            still_running=lambda: None,
            tick=lambda: self.progress.detail("waiting for sshd"),
        ).close()
        if not self.has_engine:
            return
        server = self.files.server_certificate
        authority = self._authority().certificate
        if not server.exists() or not certs.covers(authority, server.read_bytes(), self.server_names()):
            self.progress.say("The address has changed, renewing the certificate")
            self.provision(keep_bundle=True)
            return
        self.check_engine()

    def _authority(self) -> certs.Pair:
        with self.store.lock_shared("certificates"):
            return certs.ensure_authority(self.store.certificates, self.store.root.name)

    def _server_certificate(self, *, renew: bool) -> certs.Pair:
        """The machine's certificate, made when it is missing, does not fit, or `renew`; client files beside it."""
        authority = self._authority()
        for name in ("ca.pem", "cert.pem", "key.pem"):
            data = (self.store.certificates / name).read_bytes()
            write_atomic(self.files.folder / name, data, 0o600 if name == "key.pem" else 0o644)
        certificate, key = self.files.server_certificate, self.files.server_key
        names = self.server_names()
        if renew or not (
            key.exists()
            and certificate.exists()
            and certs.covers(authority.certificate, certificate.read_bytes(), names)
            and certs.belong_together(certificate.read_bytes(), key.read_bytes())
        ):
            pair = certs.make_server(authority, self.name, names)
            write_atomic(key, pair.key)
            write_atomic(certificate, pair.certificate, 0o644)
        return certs.Pair(certificate.read_bytes(), key.read_bytes())

    def need_ssh(self) -> None:
        """Raises Unsupported when the driver knows no login."""
        if not self.driver.has_ssh:
            raise self.driver.unsupported("log in to")

    def _need_whole(self) -> None:
        if unfinished := self.half_made():
            raise Conflict(f"machine {self.name!r} is half made", detail=unfinished)

    def _need_engine(self) -> None:
        self.need_ssh()
        if not self.record.engine.install:
            raise Conflict(f"machine {self.name!r} was created with --no-engine")


def load(store: Store, name: str, progress: Progress) -> Machine:
    """Read a machine. Raises NotFound or StoreError."""
    return Machine(store, store.load(name), progress)


@contextlib.contextmanager
def locked(store: Store, name: str, purpose: str, progress: Progress) -> Generator[Machine]:
    """A machine to change: nobody else changes it meanwhile."""
    if not store.exists(name):
        store.load(name)  # raises NotFound before a lock file is made
    with store.lock(name, purpose):
        yield load(store, name, progress)


def remove(store: Store, name: str, progress: Progress, *, force: bool = False) -> bool:
    """Remove a machine, a broken or half-made one too; False when `force` and there is none."""
    if not store.exists(name):
        if force:
            return False
        store.load(name)
    with store.lock(name, "rm"):
        if not store.files(name).config.exists():  # killed before anything was made
            store.delete(name)
            return True
        try:
            machine = load(store, name, progress)
        except NotFound:
            raise
        except MachineError as cause:
            if not force:
                raise
            progress.say(f"machine {name!r} cannot be read, only forgetting it: {cause}")
            store.delete(name)
            return True
        machine.remove(force=force)
        return True


def create(
    store: Store,
    name: str,
    driver: str,
    settings: dict[str, object],
    engine: EngineOptions,
    progress: Progress,
) -> Machine:
    """Make a machine, or go on with the same create that was interrupted.

    What can be refused is refused before anything is made. A failure later leaves the journal: the same
    create goes on, `rm` removes what there is.
    """
    files = store.files(name)
    with store.lock(name, "create"):
        journal = Journal(files.journal)
        request: dict[str, object] = {"driver": driver, "settings": settings, "engine": repr(engine)}
        if journal.exists and files.config.exists():
            machine = _resume(store, name, journal, request, progress)
        else:
            _refuse_taken(files)
            machine = _begin(store, name, driver, settings, engine, progress)
            make_private(files.folder)
            journal.begin(request)  # before the config: without a journal a machine counts as whole
            machine.save()
        try:
            _run(machine, journal)
        except MachineError as cause:
            hint = f"the same command goes on from here, 'pymachine rm {name}' removes what is there"
            cause.hint = f"{cause.hint}; {hint}" if cause.hint else hint
            raise
        journal.finish()
    return machine


def _refuse_taken(files: MachineFiles) -> None:
    """A folder without a config is a create that was killed before it made anything: not in the way."""
    if files.config.exists():
        name = files.folder.name
        raise Conflict(
            f"machine {name!r} already exists", hint=f"choose another name, or run 'pymachine rm {name}'"
        )


def _begin(
    store: Store,
    name: str,
    driver: str,
    settings: dict[str, object],
    engine: EngineOptions,
    progress: Progress,
) -> Machine:
    """Check before anything exists."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = Machine(store, MachineRecord(name, driver, dict(settings), engine, now), progress)
    daemon_settings(engine)  # refuses bad --engine-opt
    if machine.has_engine:
        check_available(engine.bundle)
    progress.say("Checking before anything is made")
    machine.driver.check()
    return machine


def _resume(
    store: Store, name: str, journal: Journal, request: dict[str, object], progress: Progress
) -> Machine:
    if dict(journal.request) != request:
        raise Conflict(
            f"machine {name!r} is half made by a create with other flags",
            hint=f"repeat that create to go on, or run 'pymachine rm {name}'",
        )
    progress.say(f"Going on with the create of {name!r} after {', '.join(journal.completed) or 'its checks'}")
    return load(store, name, progress)


def _run(machine: Machine, journal: Journal) -> None:
    def before(step: Step) -> None:
        machine.progress.say(step.title)

    with machine.progress.live():
        run_steps(_steps(machine), journal, before=before, after=lambda _step: machine.save())


def _steps(machine: Machine) -> Sequence[Step]:
    steps = list(machine.driver.steps())
    if machine.has_engine:

        def provision() -> None:
            machine.provision()

        steps.append(Step("engine", "Provisioning the engine", provision))
    return steps
