"""What this server accepts: the bounds of a publish, and of what a tenant may have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """QStash has these per plan; here they are settings with generous defaults. A rate of 0 is no limit."""

    max_body_bytes: int = 10 * 1024 * 1024
    max_batch_items: int = 5_000
    max_batch_bytes: int = 100 * 1024 * 1024
    max_delay: timedelta = timedelta(days=366)
    max_retries: int = 1_000
    max_timeout: timedelta = timedelta(hours=2)
    default_retries: int = 3
    max_forwarded_headers: int = 64
    max_forwarded_bytes: int = 32 * 1024
    max_labels: int = 32
    max_label_length: int = 256
    max_deduplication_id_length: int = 1_024
    max_callback_generations: int = 3
    max_queues: int = 100_000
    max_queue_parallelism: int = 1_000
    max_url_groups: int = 10_000
    max_endpoints: int = 1_000
    max_schedules: int = 100_000
    max_calls_per_second: int = 1_000
    max_messages_per_day: int = 0
