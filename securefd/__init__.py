"""securefd: private, secure federated distillation, and audits of what it leaks.

The public face. A name is imported when it is first used, so that ``import securefd`` is quick.
No module of this package may be called like a public name: importing it would hide the name.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ERRORS = (
    "AuditError",
    "BudgetExceeded",
    "ConfigError",
    "DataError",
    "LedgerError",
    "MessageError",
    "ModelError",
    "PrivacyError",
    "ProtocolError",
    "ReportError",
    "RunError",
    "RunLocked",
    "RunMismatch",
    "SealingError",
    "SecurefdError",
)

_HOMES = {
    "Config": "securefd.config",
    "audit": "securefd.evaluation.recipe",
    "audit_scores": "securefd.evaluation.any_model",
    "load_config": "securefd.config",
    "load_policy": "securefd.evaluation.policy",
    "load_run": "securefd.result",
    "load_sweep": "securefd.evaluation.sweep_config",
    "parse_config": "securefd.config",
    "plan": "securefd.planning",
    "report": "securefd.evaluation.summary",
    "run": "securefd.runner",
    "sweep": "securefd.evaluation.sweep",
    "verify": "securefd.evaluation.verifying",
} | dict.fromkeys(_ERRORS, "securefd.errors")

__all__ = tuple(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'securefd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
