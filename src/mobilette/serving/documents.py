"""The shapes of bodies and answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from mobilette.serving.bodies import FORM, JSON, PART


class Guess(BaseModel):
    """A class and its probability, 0 to 1."""

    id: str
    label: str
    probability: float


class Answer(BaseModel):
    """What `mobilette predict --json` prints of an image: an answer, or why there is none.

    Of an image with several frames there is a note that only the first was looked at.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    label: str | None = None
    probability: float | None = None
    top: list[Guess] | None = None
    answered: bool | None = None
    reason: str | None = None
    note: str | None = None
    error: str | None = None


class Answers(BaseModel):
    """The answers to a request's images, in order."""

    model: str
    answers: list[Answer]


class Problem(BaseModel):
    """Why there is no answer; `answers` says it of each image where images are the reason."""

    error: str
    answers: list[Answer] | None = None


class Facts(BaseModel):
    """A served artifact."""

    model_config = ConfigDict(extra="allow")

    name: str
    arch: str
    target: str
    precision: str
    engine: str
    resolution: list[int]
    sha256: str


class Names(BaseModel):
    """The names of the served artifacts; the first is the default."""

    models: list[str]


class State(BaseModel):
    """How the server is."""

    status: str


_BASE64 = {"type": "string", "format": "byte", "minLength": 1}
_BYTES = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": {"schema": _BYTES},
            "image/png": {"schema": _BYTES},
            "application/octet-stream": {"schema": _BYTES},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {PART: {"type": "array", "items": _BYTES, "minItems": 1}},
                    "required": [PART],
                    "additionalProperties": False,
                }
            },
            JSON: {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {"image": _BASE64},
                            "required": ["image"],
                            "additionalProperties": False,
                        },
                        {
                            "type": "object",
                            "properties": {
                                "images": {"type": "array", "items": _BASE64, "minItems": 1}
                            },
                            "required": ["images"],
                            "additionalProperties": False,
                        },
                    ]
                }
            },
        },
    }
}
_REASONS = {
    400: "The body is cut short.",
    401: "The token is missing or wrong.",
    404: "No model has this name.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or one of a format that is not decoded here.",
    422: "A value, or an image, that cannot be used.",
    500: "The engine failed.",
    503: "Too much to do: try again after the seconds that Retry-After says.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the answers with these statuses."""
    return {each: {"model": Problem, "description": _REASONS[each]} for each in statuses}
