"""Structured logs: one JSON line an event on stderr, every value escaped and cut: hostile input stays a line."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_MAX_VALUE_CHARS = 1024


def _cut_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _MAX_VALUE_CHARS and key != "exception":
            event[key] = value[:_MAX_VALUE_CHARS] + "…"
        elif isinstance(value, bytes):
            event[key] = value[: _MAX_VALUE_CHARS // 2].hex()
    return event


def set_up_logging(process: str, *, level: int = logging.INFO) -> None:
    """Sends structlog and the standard library's warnings to stderr as JSON lines that name the process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _cut_values,
            structlog.processors.JSONRenderer(default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    _cut_values,
                    structlog.processors.JSONRenderer(default=repr),
                ],
                foreign_pre_chain=[
                    structlog.contextvars.merge_contextvars,
                    structlog.stdlib.add_logger_name,
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="iso", utc=True),
                ],
            )
        )
