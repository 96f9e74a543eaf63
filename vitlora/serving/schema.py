"""What OpenAPI says about requests and answers that FastAPI does not read itself."""

from typing import Any

_RANKED = {
    "type": "object",
    "required": ["class", "confidence"],
    "properties": {
        "class": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_PREDICTION = {
    "type": "object",
    "description": "What `vitlora predict --json` prints.",
    "required": ["path", "class", "confidence", "unsure", "unfamiliar", "outside", "top_k"],
    "properties": {
        "path": {"type": "string", "description": "the file's name in the form"},
        **_RANKED["properties"],
        "unsure": {"type": "boolean"},
        "unfamiliar": {"type": "boolean"},
        "outside": {"type": "boolean"},
        "top_k": {"type": "array", "items": _RANKED},
    },
}
_FAILED = {
    "type": "object",
    "description": "A picture without an answer, beside others that have one.",
    "required": ["path", "status", "detail"],
    "properties": {
        "path": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
ANSWERS: dict[str, Any] = {
    "type": "object",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": {"anyOf": [_PREDICTION, _FAILED]}}},
}
ADAPTER: dict[str, Any] = {
    "type": "object",
    "required": ["name", "classes", "calibrated"],
    "properties": {
        "name": {"type": "string"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "calibrated": {"type": "boolean"},
    },
}
_FILE = {"type": "string", "format": "binary"}
BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A picture, or a form with one or several as files.",
        "content": {
            "application/octet-stream": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _FILE}},
                }
            },
        },
    }
}
ADDING: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "path"],
                    "properties": {
                        "name": {"type": "string", "description": "in later requests"},
                        "path": {
                            "type": "string",
                            "description": "the bundle's folder below the allowed one",
                        },
                    },
                }
            }
        },
    }
}
_SAYS = {
    400: "the form is malformed",
    401: "no token, or a wrong one",
    403: "this server does not allow it",
    404: "no such adapter",
    408: "the body took too long",
    409: "the name is taken",
    413: "too many bytes or pictures",
    415: "the body is no JSON",
    422: "no picture, or a wrong value",
    503: "too busy; try again later",
    504: "no answer in time",
}


def responses(schema: dict[str, Any], *errors: int, status: int = 200) -> dict[int | str, Any]:
    """Returns what a route answers.

    Args:
        schema: JSON schema of the answer.
        errors: Other statuses, which answer with ``detail``, one line of text.
        status: The answer's status.
    """
    detail = {"type": "object", "properties": {"detail": {"type": "string"}}}
    found: dict[int | str, Any] = {
        error: {
            "description": _SAYS[error],
            "content": {"application/json": {"schema": detail}},
        }
        for error in errors
    }
    found[status] = {
        "description": "the answer",
        "content": {"application/json": {"schema": schema}},
    }
    return found
