"""A PostgreSQL server of its own for a test or a bench: in a temporary folder, reached by a socket.

    python bench/postgresql.py

says what such a server lacks here, if anything (status 1).

It needs the server's programs (Debian: ``apt-get install postgresql``), and no account or port: the
server refuses to be root's, who starts it as another user.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pwd

USER = "mobilette"
_DEBIAN = Path("/usr/lib/postgresql")


def missing() -> str | None:
    """Return what is not installed here, as a sentence; ``None`` if nothing is."""
    if programs() is None:
        return "PostgreSQL is not installed (no initdb; Debian: apt-get install postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'mobilette[postgresql]')"
    return None


def programs() -> Path | None:
    """Return the folder with the server's programs; ``None`` if there is none."""
    folders = []
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    if (config := shutil.which("pg_config")) is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(said.stdout.strip()))
    # Debian has each version's in a folder that is in no PATH.
    versions = (each for each in _DEBIAN.glob("*/bin") if each.parent.name.isdigit())
    folders += sorted(versions, key=lambda each: -int(each.parent.name))
    return next((x for x in folders if (x / "initdb").is_file() and (x / "pg_ctl").is_file()), None)


@contextmanager
def server() -> Iterator[str]:
    """Start a server and yield the URL of its database, with a password; it is gone afterwards."""
    found = programs()
    assert found is not None, missing()
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder, password = Path(name), secrets.token_hex(8)
        data, word, log = folder / "data", folder / "password", folder / "log"
        word.write_text(password, encoding="utf-8")
        account = _account()
        if account is not None:
            for path in (folder, word):
                os.chown(path, account.pw_uid, account.pw_gid)

        def run(program: str, *arguments: str) -> None:
            # To a file: the server inherits it and would keep a pipe open.
            with (folder / "said").open("w+", encoding="utf-8") as said:
                command = [str(found / program), "-D", str(data), *arguments]
                done = subprocess.run(
                    command, cwd=folder, stdout=said, stderr=said, check=False, **_as(account)
                )
                said.seek(0)
                if done.returncode:
                    raise RuntimeError(f"{program}: {said.read().strip()}")

        signed = ["--auth=scram-sha-256", f"--pwfile={word}", f"--username={USER}"]
        run("initdb", *signed, "--encoding=UTF8", "--locale=C", "--no-sync")
        # Nothing has to outlive the machine.
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        run("pg_ctl", "-w", "-l", str(log), "-o", options, "start")
        try:
            yield f"postgresql://{USER}:{password}@/postgres?host={quote(name, safe='/')}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def _account() -> pwd.struct_passwd | None:
    """Return whom the server is to run as: root's as Debian's user of that name, or as nobody."""
    if os.geteuid() != 0:
        return None
    import pwd  # which only Unix has

    names = {each.pw_name: each for each in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


if __name__ == "__main__":
    raise SystemExit(missing())
