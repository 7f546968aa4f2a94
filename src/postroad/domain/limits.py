"""What this server accepts: the bounds that a publish is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """QStash has these per plan; here they are settings with generous defaults."""

    max_body_bytes: int = 10 * 1024 * 1024
    max_delay: timedelta = timedelta(days=366)
    max_retries: int = 1_000
    max_timeout: timedelta = timedelta(hours=2)
    default_retries: int = 3
    max_forwarded_headers: int = 64
    max_forwarded_bytes: int = 32 * 1024
    max_labels: int = 32
    max_label_length: int = 256
    max_deduplication_id_length: int = 1_024
