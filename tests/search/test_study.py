"""A race in a database: shared by processes, and never lost when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilette.errors import InputError
from mobilette.search.race import Place, Rounds, final_ranking, next_places
from mobilette.search.study import open_study

pytest.importorskip("optuna")

KEYS = [f"network-{number}" for number in range(8)]
ROUNDS = Rounds(contenders=8, seconds=4.0)
# Trains by sleeping; says each place that it takes and finishes.
WORKER = """
import json, sys, time
from pathlib import Path
from mobilette.search.race import Rounds, next_places
from mobilette.search.study import open_study

keys = [f"network-{number}" for number in range(8)]
rounds = Rounds(contenders=8, seconds=4.0)
with open_study(Path(sys.argv[1]), None) as study:
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


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(text: str, what: str) -> list[Place]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [Place(key=key, number=number) for kind, key, number in lines if kind == what]


def test_two_processes_share_a_race_without_doing_a_training_twice(tmp_path: Path) -> None:
    workers = [start(tmp_path, 0.05) for _ in range(2)]
    outputs = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    done = [place for text in outputs for place in said(text, "finished")]
    assert len(done) == len(set(done)) == 8 + 4 + 2
    with open_study(tmp_path, None) as study:
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


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/study.db", "nonsense", "oracle9://x", "postgresql://127.0.0.1:1/x"]
)
def test_a_storage_that_cannot_be_reached_is_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="cannot be reached") as caught, open_study(tmp_path, url):
        pass
    assert "\n" not in str(caught.value)
