"""Orchestration: chat agents over the models of the house.

Routes: ``POST /api/v1/chat``, ``POST /api/v1/suggest``; both answer 501 until a chat model is
configured. No tables.
"""

from app.kernel.module import Module
from app.modules.orchestration.controllers import chat, suggest


class OrchestrationModule(Module):
    name = "orchestration"
    routes = (chat, suggest)
