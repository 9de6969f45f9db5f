"""The Python client of AI Spine: flows of agents, started, watched and waited for."""

from ai_spine._clients import AISpine, AsyncAISpine
from ai_spine._settings import DEFAULT_BASE_URL
from ai_spine._version import __version__
from ai_spine.exceptions import (
    AISpineError,
    APIError,
    AuthenticationError,
    ConflictError,
    ExecutionError,
    InsufficientCreditsError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    TimeoutError,
    ValidationError,
)
from ai_spine.models import (
    Agent,
    Execution,
    ExecutionEvent,
    Flow,
    HealthStatus,
    Metrics,
    NodeResult,
    User,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "AISpine",
    "AISpineError",
    "APIError",
    "Agent",
    "AsyncAISpine",
    "AuthenticationError",
    "ConflictError",
    "Execution",
    "ExecutionError",
    "ExecutionEvent",
    "Flow",
    "HealthStatus",
    "InsufficientCreditsError",
    "Metrics",
    "NetworkError",
    "NodeResult",
    "NotFoundError",
    "RateLimitError",
    "TimeoutError",
    "User",
    "ValidationError",
    "__version__",
]
