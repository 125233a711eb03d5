"""Errors as the page and programs get them: a status and {"error": "..."}."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from instancefcn.errors import ConfigError, DataError, ImageError, InstanceFCNError, OutputError
from instancefcn.studio.service import BusyError, TakenError

_STATUS: tuple[tuple[type[InstanceFCNError], int], ...] = (
    (BusyError, 503),
    (TakenError, 409),
    (ImageError, 422),
    (DataError, 422),
    (ConfigError, 422),
    (OutputError, 507),
)


def answer_errors(app: FastAPI) -> None:
    """Answer every error of the application as JSON."""
    for kind in (InstanceFCNError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _as_json)


async def _as_json(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()[:20]]
        return JSONResponse({"error": "; ".join(problems)}, 422)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": "10"} if status == 503 else None
    return JSONResponse({"error": str(error)}, status, headers)
