"""The record of a race that several processes, or machines, can share: a study of Optuna's.

A training is a trial: waiting, then taken by exactly one process, then finished with a reward, or
failed. Who takes a trial holds a lock file of its own beside the study as long as it lives; a trial
of a process that does not is taken again.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mobilette.errors import InputError, nearest
from mobilette.locks import TakenError, locked
from mobilette.search.race import Place

if TYPE_CHECKING:
    import optuna

STUDY = "mobilette fit"
DATABASE = "study.db"
WORKERS = "workers"
_PLACE, _OWNER = "place", "owner"
# States of a trial that stands for its place; pruned ones are those that were given up.
_OF_A_PLACE = ("WAITING", "RUNNING", "COMPLETE", "FAIL")
# What Optuna is tested with.
_DATABASES = ("sqlite", "postgresql", "mysql")
# A driver that is missing, a port that is no number, a folder that is not there.
_WHILE_OPENING = (ImportError, ValueError, OSError)
_CONNECTED_WITHIN = 10  # seconds; a firewall may answer nothing, and psycopg waits for 130
# A process that takes a trial signs it at once.
_SIGNED_WITHIN = timedelta(seconds=10)


def default_storage(folder: Path) -> str:
    """Return the URL of the database in a fit's folder."""
    return f"sqlite:///{(folder / DATABASE).resolve()}"


class Study:
    """The trainings of a race; open it with `open_study`."""

    def __init__(self, study: optuna.Study, folder: Path, owner: str) -> None:
        self._study, self._workers, self._owner = study, folder / WORKERS, owner
        self._lock = FileLock(folder / f".{DATABASE}.lock")
        self._in_hand: dict[Place, int] = {}

    def rewards(self) -> dict[Place, float | None]:
        """Return the result of each finished training; ``None`` for one that failed."""
        return {_place(trial): trial.value for trial in self._trials("COMPLETE", "FAIL")}

    def take(self, places: Sequence[Place]) -> Place | None:
        """Take one of ``places`` that no living process has; ``None`` if there is none."""
        with self._lock:  # in SQLite, Optuna lets two processes take one trial
            self._free_abandoned()
            taken = {_place(trial) for trial in self._trials(*_OF_A_PLACE)}
            free = [place for place in places if place not in taken]
            if free:
                self._study.enqueue_trial({}, user_attrs=_values(free[0]))
            while (trial := self._pop()) is not None:
                place = _place(self._frozen(trial.number))
                # Without a common lock two processes may put a place on the list; or one may end
                # before it takes it.
                if place in places and self._is_first(trial.number, place):
                    trial.set_user_attr(_OWNER, self._owner)
                    self._in_hand[place] = trial.number
                    return place
                self._give_up(trial.number)
            return None

    def give_up(self, place: Place) -> None:
        """Leave a training that this process took to others."""
        self._give_up(self._in_hand.pop(place))

    def finish(self, place: Place, reward: float | None) -> None:
        """Record the result of a training that this process took; ``None`` if it failed."""
        number = self._in_hand.pop(place)
        if reward is None:
            self._study.tell(number, state=_state("FAIL"))
        else:
            self._study.tell(number, reward)

    def _pop(self) -> optuna.trial.Trial | None:
        """Take a waiting trial; Optuna lets only one process have each."""
        if not self._trials("WAITING"):
            return None
        trial = self._study.ask()
        if _PLACE in self._frozen(trial.number).user_attrs:
            return trial
        self._give_up(trial.number)  # another process was faster, and `ask` made a new one
        return None

    def _is_first(self, number: int, place: Place) -> bool:
        return not any(
            trial.number < number and _place(trial) == place for trial in self._trials(*_OF_A_PLACE)
        )

    def _free_abandoned(self) -> None:
        """Make room for the trainings of processes that have ended."""
        for trial in self._trials("RUNNING"):
            owner = trial.user_attrs.get(_OWNER)
            if owner is None and datetime.now() - trial.datetime_start < _SIGNED_WITHIN:
                continue
            if owner == self._owner and trial.number in self._in_hand.values():
                continue
            if owner in (None, self._owner) or not self._is_alive(owner):
                self._give_up(trial.number)

    def _give_up(self, number: int) -> None:
        with suppress(ValueError):  # its process has just finished it
            self._study.tell(number, state=_state("PRUNED"))

    def _is_alive(self, owner: str) -> bool:
        try:
            with locked(self._workers / f"{owner}.lock", again=False):
                return False
        except TakenError:
            return True

    def _trials(self, *states: str) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=tuple(map(_state, states)))

    def _frozen(self, number: int) -> Any:
        return next(
            each for each in self._study.get_trials(deepcopy=False) if each.number == number
        )


def check_storage(storage: str | None) -> None:
    """Check that Optuna is there and the database at the URL ``storage``, if given, answers.

    Raises:
        InputError: it is missing, or the database cannot be reached.
    """
    _optuna()
    if storage is not None:
        with _reaching(storage, *_WHILE_OPENING), _connected(storage):
            pass


@contextmanager
def open_study(folder: Path, storage: str | None, name: str = STUDY) -> Iterator[Study]:
    """Yield the study ``name`` of the fit in ``folder``, in the database at the URL ``storage``.

    Raises:
        InputError: Optuna is missing, or the database cannot be reached.
    """
    optuna = _optuna()
    url = storage or default_storage(folder)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    workers = folder / WORKERS
    workers.mkdir(parents=True, exist_ok=True)
    with _reaching(url), ExitStack() as opened:
        with (
            _reaching(url, *_WHILE_OPENING),
            FileLock(folder / f".{DATABASE}.lock"),  # two must not both make tables
        ):
            found = opened.enter_context(_connected(url))
            study = optuna.create_study(
                study_name=name, storage=found, direction="maximize", load_if_exists=True
            )
        opened.enter_context(locked(workers / f"{owner}.lock"))
        yield Study(study, folder, owner)


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise InputError("fit needs the extra: pip install 'mobilette[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def _connected(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """Yield the database at ``url``; its connections are closed afterwards."""
    import optuna

    # Trainings take longer than an idle connection may last: each is tried before it is used.
    options: dict[str, object] = {"pool_pre_ping": True}
    if re.match(r"postgresql(\+psycopg2?)?:", url) and "connect_timeout" not in url:
        options["connect_args"] = {"connect_timeout": _CONNECTED_WITHIN}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _reaching(url: str, *others: type[Exception]) -> Iterator[None]:
    """Turn what a database raises, and ``others``, into one line without the URL's password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    place = f"--storage {_without_password(url)}"
    if re.match(r"[^/]*://[^/@]*:[^/@]*@[^/@]*@", url):
        raise InputError(f"{place}: an @ in a password is written %40")
    raised: tuple[type[Exception], ...] = (SQLAlchemyError, StorageInternalError, *others)
    try:
        yield
    except raised as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError | ImportError) else None
        line = (str(cause or error).strip() or type(error).__name__).splitlines()[0]
        kind = re.split(r"[+:]", url)[0]
        hint = "" if kind in _DATABASES else nearest(kind, _DATABASES)
        if isinstance(error, ImportError) and kind == "postgresql":
            hint = "; install its driver with pip install 'mobilette[postgresql]'"
        raise InputError(f"{place}: cannot be reached ({line}){hint}") from None


def _without_password(url: str) -> str:
    """Return ``url`` with stars where a password is, also one with an @ or a slash in it."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def _values(place: Place) -> dict[str, object]:
    return {_PLACE: [place.key, place.number]}


def _place(trial: Any) -> Place:
    key, number = trial.user_attrs.get(_PLACE, ("", 0))
    return Place(key=key, number=number)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]
