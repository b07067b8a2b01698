"""`FaultProxy`: a small HTTP proxy that breaks chosen requests between a storage client and its server."""

from .actions import (
    Action,
    Answer,
    AnswerAfter,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    Fault,
    FlipBit,
    FlipRequestBit,
    Match,
    Refuse,
    RequestLog,
    ResetRequest,
    StallBody,
    Throttle,
    TruncateBody,
)
from .proxy import FaultProxy

__all__ = [
    "Action",
    "Answer",
    "AnswerAfter",
    "Call",
    "CallAfter",
    "Delay",
    "DropResponse",
    "Fault",
    "FaultProxy",
    "FlipBit",
    "FlipRequestBit",
    "Match",
    "Refuse",
    "RequestLog",
    "ResetRequest",
    "StallBody",
    "Throttle",
    "TruncateBody",
]
