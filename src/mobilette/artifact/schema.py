"""Contracts of another schema: which version of Mobilette can read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args, get_type_hints

from mobilette.artifact.contract import Contract
from mobilette.errors import InputError

_VERSION = re.compile(r"[0-9][0-9a-z.+-]{0,31}")


def check_schema(content: object, *, where: str) -> None:
    """Raise `InputError` if ``content``, a contract's JSON value, is of a newer schema.

    It names the version to install; everything else about ``content`` is left to `parse`.
    """
    known = max(get_args(get_type_hints(Contract)["schema"]))
    schema = content.get("schema") if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not isinstance(schema, int) or schema <= known:
        return
    versions = content.get("versions")
    made_by = versions.get("mobilette") if isinstance(versions, Mapping) else None
    needed, option = "a newer version of Mobilette", "--upgrade mobilette"
    if isinstance(made_by, str) and _VERSION.fullmatch(made_by):
        needed, option = f"a newer version, Mobilette {made_by}", f"'mobilette>={made_by}'"
    raise InputError(
        f"{where}: made by {needed} (schema {schema}, this one reads up to {known}); "
        f"pip install {option}"
    )
