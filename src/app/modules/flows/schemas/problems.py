"""Failures as the SDKs of this contract read them."""

import msgspec

from app.kernel.problems import Problem, Wire


class ProblemRead(msgspec.Struct, frozen=True):
    """``message`` says what ``detail`` says: one client reads the one, the other the other."""

    detail: str
    message: str
    error_code: str
    details: dict[str, object]
    request_id: str


def spine_error(problem: Problem) -> Wire:
    code = problem.code.upper().replace("-", "_")
    read = ProblemRead(problem.detail, problem.detail, code, problem.extra, problem.request_id)
    return Wire(msgspec.json.encode(read), "application/json")
