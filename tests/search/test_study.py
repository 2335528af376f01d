"""A race in a database: shared by processes, and never lost when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import postgresql
from mobilette.errors import InputError
from mobilette.search.race import Place, Rounds, final_ranking, next_places
from mobilette.search.study import STUDY, check_storage, default_storage, open_study

pytest.importorskip("optuna")

KEYS = [f"network-{number}" for number in range(8)]
ROUNDS = Rounds(contenders=8, seconds=4.0)
# Trains by sleeping; says each place that it takes and finishes. Its arguments: the folder, the
# seconds of a training, the database and the study's name.
WORKER = """
import json, sys, time
from pathlib import Path
from mobilette.search.race import Rounds, next_places
from mobilette.search.study import open_study

keys = [f"network-{number}" for number in range(8)]
rounds = Rounds(contenders=8, seconds=4.0)
with open_study(Path(sys.argv[1]), *sys.argv[3:]) as study:
    while (places := next_places(keys, rounds, study.rewards())) is not None:
        place = study.take(places)
        if place is None:
            time.sleep(0.02)
            continue
        print(json.dumps(["taken", place.key, place.number]), flush=True)
        time.sleep(float(sys.argv[2]))
        study.finish(place, keys.index(place.key) / 10)
        print(json.dumps(["finished", place.key, place.number]), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if (reason := postgresql.missing()) is not None:
        pytest.skip(reason)
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return default_storage(tmp_path)
    url: str = request.getfixturevalue("server")
    return url


def start(
    folder: Path, seconds: float, storage: str | None = None, name: str = STUDY
) -> subprocess.Popen[str]:
    database = [storage or default_storage(folder), name]
    command = [sys.executable, "-c", WORKER, str(folder), str(seconds), *database]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(text: str, what: str) -> list[Place]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [Place(key=key, number=number) for kind, key, number in lines if kind == what]


def test_two_processes_share_a_race_without_doing_a_training_twice(
    tmp_path: Path, storage: str
) -> None:
    name = str(tmp_path)  # a server has other tests' studies
    workers = [start(tmp_path, 0.05, storage, name) for _ in range(2)]
    outputs = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    done = [place for text in outputs for place in said(text, "finished")]
    assert len(done) == len(set(done)) == 8 + 4 + 2
    with open_study(tmp_path, storage, name) as study:
        rewards = study.rewards()
    assert next_places(KEYS, ROUNDS, rewards) is None
    assert final_ranking(KEYS, ROUNDS, rewards)[0] == "network-7"


def test_a_killed_process_loses_the_training_in_hand_alone(tmp_path: Path) -> None:
    worker = start(tmp_path, 30.0)
    assert worker.stdout is not None
    taken = said(worker.stdout.readline(), "taken")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    with open_study(tmp_path, None) as study:
        assert study.take(taken) == taken[0]
        study.finish(taken[0], 0.5)
        assert study.rewards() == {taken[0]: 0.5}


def test_a_training_of_a_living_process_is_not_taken(tmp_path: Path) -> None:
    worker = start(tmp_path, 30.0)
    assert worker.stdout is not None
    taken = said(worker.stdout.readline(), "taken")
    try:
        time.sleep(0.1)  # it signs after it has taken
        with open_study(tmp_path, None) as study:
            assert study.take(taken) is None
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_a_failed_training_is_a_result(tmp_path: Path) -> None:
    place = Place(key="network-0", number=0)
    with open_study(tmp_path, None) as study:
        assert study.take([place]) == place
        study.finish(place, None)
        assert study.rewards() == {place: None}
        assert study.take([place]) is None


def test_a_database_that_stops_is_said_in_one_line(tmp_path: Path) -> None:
    if (reason := postgresql.missing()) is not None:
        pytest.skip(reason)
    place = Place(key="network-0", number=0)

    def lose_it() -> None:
        with ExitStack() as running:
            url = running.enter_context(postgresql.server())
            with open_study(tmp_path, url) as study:
                assert study.take([place]) == place
                running.close()
                study.finish(place, 0.5)

    with pytest.raises(InputError, match="cannot be reached") as caught:
        lose_it()
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path, server: str) -> None:
    right = server.split(":")[2].split("@")[0]
    url = server.replace(right, "secret")
    with pytest.raises(InputError, match="password authentication failed") as caught:
        check_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1/x",
        "postgresql://me:a/secret@127.0.0.1:1/x",
        "postgresql://me:an@secret@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=me&password=secret",
        "postgres://me:secret@127.0.0.1:1/x",
    ],
)
def test_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(InputError, match="--storage postgres") as caught:
        check_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nearest_kind_of_database_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'postgresql'"):
        check_storage("postgres://127.0.0.1:1/x")


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/study.db", "nonsense", "oracle9://x", "postgresql://127.0.0.1:1/x"]
)
def test_a_storage_that_cannot_be_reached_is_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="cannot be reached") as caught, open_study(tmp_path, url):
        pass
    assert "\n" not in str(caught.value)
