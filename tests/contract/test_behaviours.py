"""Every behaviour that was seen to break a client has a test: the table of them, and those that need their own server.

What the table calls just `test_...` is in this directory.
"""

from __future__ import annotations

import ast
import asyncio
import os
import ssl
import sys
import time
from asyncio.subprocess import PIPE
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.conftest import Running, Serve, running
from tests.receiver import Receiver

TESTS = Path(__file__).parents[1]

NAIVE: list[tuple[str, str]] = [
    ("a message is gone as soon as it has ended", "test_a_message_can_be_read_and_cancelled_right_after_its_end"),
    (
        "deleting a missing topic, queue or schedule is not found",
        "test_deleting_a_topic_a_queue_or_a_schedule_that_is_missing_succeeds",
    ),
    (
        "names in header maps are as they were received",
        "test_header_maps_have_canonical_names_and_only_what_is_forwarded",
    ),
    (
        "header maps hold every header of the request",
        "test_header_maps_have_canonical_names_and_only_what_is_forwarded",
    ),
    ("a gzipped answer is stored packed", "test_a_gzipped_answer_is_stored_decoded"),
    (
        "the destination loses its query string",
        "test_the_query_string_of_a_destination_arrives_as_it_was_written",
    ),
    ("https:/ is not repaired to https://", "test_a_scheme_that_a_proxy_has_collapsed_is_repaired"),
    ("unknown filters are passed over", "test_a_misspelt_filter_is_refused_and_changes_nothing"),
    ("labels are one opaque text", "test_labels_are_a_comma_list"),
    (
        "of repeated parameters only the last is seen",
        "test_values_of_one_field_mean_or_and_different_fields_and_when_changing",
    ),
    (
        "of repeated parameters only the first is seen",
        "test_values_of_one_field_mean_or_and_different_fields_and_when_reading",
    ),
    ("/v2/Schedules is not /v2/schedules", "test_schedules_are_found_under_a_capital_letter"),
    ("results of a URL group are flattened in a batch", "test_the_results_of_a_url_group_stay_nested_in_a_batch"),
    (
        "only what was never attempted can be cancelled",
        "test_attempted_messages_and_those_in_flight_can_be_cancelled_by_id",
    ),
    (
        "the period is absent unless it was given",
        "test_the_limits_of_a_message_are_shown_if_they_were_given_and_its_period_always",
    ),
    ("there is always a cursor, empty on the last page", "test_the_cursor_is_absent_on_the_last_page"),
    ("a cron is kept with its blanks", "test_a_cron_is_trimmed"),
    ("isPaused and paused are left out when false", "test_what_is_not_paused_says_so"),
    ("the body of a DELETE is not read", "test_ids_are_honoured_in_the_query_and_in_the_body"),
    ("ids in the query are not read", "test_ids_are_honoured_in_the_query_and_in_the_body"),
    ("count is passed over on bulk calls", "test_count_limits_every_bulk_call"),
    ("a retried dead letter stays", "test_a_dead_letter_is_gone_after_its_deletion_or_its_retry"),
    ("cancelling is answered without a body", "test_a_single_cancel_answers_json"),
    ("there is no ERROR before FAILED", "test_failing_without_retries_makes_exactly_four_events"),
    ("the last failure makes a RETRY too", "test_exhausted_retries_make_one_retry_event_less_than_errors"),
    ("the first retry comes after a minute", "test_the_first_retry_comes_after_twelve_seconds"),
    (
        "a flow-control key is there while messages wait for it",
        "test_a_key_stays_when_nothing_waits_for_it_and_counts_in_integers",
    ),
    ("unpin does not read what to unpin", "test_unpinning_frees_only_what_it_names"),
    ("Not-Before is read as milliseconds", "test_not_before_is_in_seconds"),
    ("a delay or a timeout is seconds only", "test_durations_can_be_compound"),
    (
        "a period is seconds only",
        "test_the_limits_of_a_message_are_shown_if_they_were_given_and_its_period_always",
    ),
    (
        "making a schedule again merges it with the old one",
        "test_a_schedule_with_the_same_id_keeps_nothing_of_the_one_before",
    ),
    ("errors are plain text", "test_every_error_is_a_json_object_with_a_text"),
    ("responseBody is base64", "test_an_answer_is_text_in_dead_letters_and_base64_in_the_log"),
    (
        "retryDelayExpression is not echoed",
        "test_the_retry_expression_is_echoed_under_the_names_that_clients_read",
    ),
    (
        "logs have no retryDelayExpr",
        "test_the_retry_expression_is_echoed_under_the_names_that_clients_read",
    ),
    ("instants of messages and events are in seconds", "test_instants_are_in_milliseconds"),
    ("instants of other things are in seconds", "test_instants_of_everything_are_in_milliseconds"),
    ("a bulk call with a filter that is not understood", "test_a_misspelt_filter_is_refused_and_changes_nothing"),
    ("a bulk call with a filter that means nothing today", "test_a_filter_by_api_never_means_everything"),
    ("a bulk call with an empty list of ids", "test_an_empty_list_of_ids_names_nothing"),
]
"""What servers are tempted to do, and what shows that this one does not."""

OURS: list[tuple[str, str]] = [
    ("the query string of a destination", "test_the_query_string_of_a_destination_arrives_as_it_was_written"),
    (
        "the headers that a destination receives",
        "test_straight_line.py::test_a_message_arrives_byte_for_byte_with_its_headers",
    ),
    ("the signature", "test_a_signature_has_exactly_the_claims_that_receivers_check"),
    (
        "the bodies of callbacks",
        "test_straight_line.py::test_a_callback_reports_every_attempt_and_a_failure_callback_the_last",
    ),
    (
        "deduplication",
        "test_deduplication.py::test_of_64_equal_publishes_at_once_one_is_stored_and_63_are_told_its_id",
    ),
    ("the times of retries", "test_the_first_retry_comes_after_twelve_seconds"),
    ("Retry-After", "test_straight_line.py::test_the_destination_can_ask_for_a_later_retry"),
    (
        "the order of a queue",
        "test_queues.py::test_a_crowd_of_publishers_and_a_receiver_that_fails_never_break_the_order",
    ),
    ("the parallelism of a queue", "test_queues.py::test_a_queue_has_no_more_under_way_than_its_parallelism"),
    (
        "rates that hold",
        "test_flow_control.py::test_no_more_deliveries_begin_in_a_period_than_the_rate_of_their_key",
    ),
    ("schedules that fire", "test_schedules.py::test_a_tick_is_a_publish_of_what_was_stored"),
    ("the rotation of keys", "test_keys_are_rotated_on_every_path_that_clients_use"),
    ("persistence over a restart", "test_all_that_was_stored_is_there_after_a_restart"),
    ("persistence over a crash", "faults/test_kill.py::test_after_kill_9_every_acknowledged_message_arrives"),
    ("489", "test_straight_line.py::test_status_489"),
    ("timeouts", "test_straight_line.py::test_a_timeout_ends_an_attempt"),
    ("bodies that are no text", "test_straight_line.py::test_a_message_arrives_byte_for_byte_with_its_headers"),
    ("all of a batch or nothing", "api/test_batch.py::test_one_bad_item_refuses_the_batch_and_nothing_is_stored"),
]
"""What no client's tests look at."""

DETAILS: list[tuple[str, str]] = [
    ("a key is there at once", "test_a_key_stays_when_nothing_waits_for_it_and_counts_in_integers"),
    ("a key counts in integers", "test_a_key_stays_when_nothing_waits_for_it_and_counts_in_integers"),
    ("only what is named is unpinned", "test_unpinning_frees_only_what_it_names"),
    (
        "resetRate leaves nothing counted",
        "test_resetting_the_rate_leaves_none_counted_though_one_is_in_flight",
    ),
    ("a delivery is exactly one event", "test_a_delivery_is_exactly_one_event"),
    ("events come newest first", "test_failing_without_retries_makes_exactly_four_events"),
    ("events and dead letters come within seconds", "test_events_and_dead_letters_are_there_within_seconds"),
    ("a failure without retries is four events", "test_failing_without_retries_makes_exactly_four_events"),
    ("a page holds four hundred events", "test_one_page_holds_four_hundred_events"),
    ("a gzipped answer is text in list and entry", "test_a_gzipped_answer_is_stored_decoded"),
    (
        "a delivered message can be read and deleted for a while",
        "test_a_message_can_be_read_and_cancelled_right_after_its_end",
    ),
    (
        "cancelling by ids counts what was attempted or is in flight",
        "test_attempted_messages_and_those_in_flight_can_be_cancelled_by_id",
    ),
    (
        "cancelling without a body and a query cancels all",
        "test_cancelling_without_ids_or_filters_cancels_everything",
    ),
    ("cancelling all counts what lives", "test_cancelling_everything_counts_exactly_what_lives"),
    ("a single cancel says how many", "test_a_single_cancel_answers_json"),
    (
        "a dead letter is not found the second time",
        "test_a_dead_letter_is_gone_after_its_deletion_or_its_retry",
    ),
    (
        "several values of one field mean or, several fields and",
        "test_values_of_one_field_mean_or_and_different_fields_and_when_changing",
    ),
    ("count is a limit of a call", "test_count_limits_every_bulk_call"),
    ("the last page has no cursor", "test_the_cursor_is_absent_on_the_last_page"),
    ("a bulk retry may have an empty cursor", "test_a_bulk_retry_may_say_that_there_is_no_next_page"),
    (
        "a period is in seconds, 1 without one; limits that were not given are absent",
        "test_the_limits_of_a_message_are_shown_if_they_were_given_and_its_period_always",
    ),
    ("label is the first of labels", "test_labels_are_a_comma_list"),
    (
        "the header map of a message is what is forwarded",
        "test_header_maps_have_canonical_names_and_only_what_is_forwarded",
    ),
    (
        "... with the Content-Type if there was one",
        "test_the_content_type_is_shown_if_and_only_if_it_was_sent",
    ),
    ("... and that of a schedule too", "test_the_header_map_of_a_schedule_is_that_of_its_messages"),
    (
        "a schedule of the same id replaces",
        "test_a_schedule_with_the_same_id_keeps_nothing_of_the_one_before",
    ),
    (
        "the delay of a schedule is in seconds",
        "test_a_schedule_keeps_its_queue_and_its_delay_though_enqueueing_refuses_one",
    ),
    ("isPaused and paused are always there", "test_what_is_not_paused_says_so"),
    ("results of groups stay nested", "test_the_results_of_a_url_group_stay_nested_in_a_batch"),
    (
        "names may begin with a dash or an underscore",
        "test_names_of_url_groups_may_begin_with_a_dash_or_an_underscore",
    ),
    (
        "deleting what is missing succeeds",
        "test_deleting_a_topic_a_queue_or_a_schedule_that_is_missing_succeeds",
    ),
    ("texts that clients compare", "test_the_texts_that_clients_compare"),
    ("api/llm leads to a URL of one's choice", "test_a_call_of_a_model_goes_where_the_server_is_told_to"),
    ("the first retry comes after 12 s", "test_the_first_retry_comes_after_twelve_seconds"),
    ("jti is a text", "test_a_signature_has_exactly_the_claims_that_receivers_check"),
    ("POSTROAD_CA_FILE", "test_an_authority_of_ones_own_is_believed_beside_the_others"),
    ("SSL_CERT_FILE", "dispatch/test_egress_tls.py::test_authorities_of_the_environment_are_trusted"),
    ("private addresses where they are allowed", "api/test_publish.py::test_where_messages_may_go_is_a_setting"),
    ("a token of one's choice", "test_a_token_of_ones_own_is_accepted_from_the_first_start_on"),
    ("signing keys of one's choice", "test_cli.py::test_signing_keys_that_receivers_hold_already_are_taken_over"),
]
"""What clients rely on."""

MISSING = {
    "a map of hosts like curl's --connect-to": "optional; /etc/hosts and a container's extra hosts do the same",
}
"""What self-hosters are said to need and what there is not."""


def test_every_behaviour_has_a_test_that_exists() -> None:
    found = {
        f"{path.relative_to(TESTS)}::{node.name}": node
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
    }
    here = {name.rpartition("::")[2]: node for name, node in found.items() if name.startswith("contract/")}

    table = [*NAIVE, *OURS, *DETAILS]
    titles = [title for title, _ in table]
    assert [test for _, test in table if test not in found and test not in here] == []
    assert [title for title in titles if titles.count(title) > 1] == []
    assert (len(NAIVE), len(OURS), len(DETAILS)) == (41, 18, 40), "a behaviour went or came: say so here"
    for test in {test for _, test in table}:
        decorators = ast.unparse([*(here.get(test) or found[test]).decorator_list])  # type: ignore[arg-type]
        assert "skip" not in decorators, test
        assert "xfail" not in decorators, test


@pytest.mark.parametrize("way", ["publish", "enqueue/q", "schedules", "batch"])
async def test_a_call_of_a_model_goes_where_the_server_is_told_to(serve: Serve, receiver: Receiver, way: str) -> None:
    server = await serve(llm_url=receiver.url("/v1/chat/completions"))
    headers = {"Upstash-Forward-Authorization": "Bearer m"}
    if way == "batch":
        item = {"destination": "api/llm", "body": "ask", "headers": headers}
        answer = await server.http.post("/v2/batch", json=[item])
    else:
        cron = {"Upstash-Cron": "0 0 1 1 *"} if way == "schedules" else {}
        answer = await server.http.post(f"/v2/{way}/api/llm", content="ask", headers=headers | cron)
    assert answer.is_success, answer.text

    if way == "schedules":
        schedule = (await server.http.get(f"/v2/schedules/{answer.json()['scheduleId']}")).json()
        assert schedule["destination"] == "api/llm"
        await server.time_passes(timedelta(milliseconds=schedule["nextScheduleTime"] - time.time() * 1000 + 5))

    request = await receiver.next_request("/v1/chat/completions")
    assert (request.body, request.header("Authorization")) == (b"ask", "Bearer m")
    message = (await server.http.get(f"/v2/messages/{request.header('Upstash-Message-Id')}")).json()
    assert (message["api"], message["url"]) == ("llm", receiver.url("/v1/chat/completions"))


async def test_a_server_that_knows_no_model_says_so(server: Running) -> None:
    answer = await server.http.post("/v2/publish/api/llm")

    assert answer.status_code == 400
    assert "POSTROAD_LLM_URL" in answer.json()["error"]
    assert await server.events() == []


async def test_an_authority_of_ones_own_is_believed_beside_the_others(database_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async with Receiver(ssl_context=context) as receiver:
        async with running(database_url) as doubting:
            refused = await doubting.publish(receiver.url(), b"secret", Upstash_Retries="0")
            await doubting.settled(refused, "FAILED")
        assert receiver.requests() == []
        async with running(database_url, ca_file=tmp_path / "authority.pem") as believing:
            await believing.settled(await believing.publish(receiver.url(), b"secret"))
        assert [request.body for request in receiver.requests()] == [b"secret"]


async def test_a_token_of_ones_own_is_accepted_from_the_first_start_on(database_url: str) -> None:
    environment = {
        **os.environ, "POSTROAD_DATABASE_URL": database_url, "POSTROAD_TOKEN": "my-very-own-token-of-32-characters",
        "POSTROAD_PORT": "0", "POSTROAD_ALLOW_DEV_CREDENTIALS": "true",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "postroad", "serve", env=environment, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).split()[-1].decode()
        headers = {"Authorization": f"Bearer {environment['POSTROAD_TOKEN']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            answer = await client.get("/v2/queues")
    finally:
        process.terminate()
        await process.wait()
    assert (answer.status_code, answer.json()) == (200, [])


async def test_all_that_was_stored_is_there_after_a_restart(database_url: str, receiver: Receiver) -> None:
    async with running(database_url) as before:
        waiting = await before.publish(receiver.url("/waiting"), b"\x00\xff", Upstash_Delay="1h", Upstash_Label="l")
        await before.http.post("/v2/queues", json={"queueName": "q", "parallelism": 3, "paused": True})
        queued = await before.http.post(f"/v2/enqueue/q/{receiver.url('/queued')}")
        await before.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url("/g")}]})
        cron = {"Upstash-Cron": "0 0 1 1 *", "Upstash-Schedule-Id": "s"}
        await before.http.post(f"/v2/schedules/{receiver.url('/s')}", headers=cron)
        await before.http.post("/v2/flowControl/k/pin", params={"rate": 3})
        keys = (await before.http.post("/v2/keys/rotate")).json()
        stored = await _everything(before, waiting)

    async with running(database_url) as after:
        assert await _everything(after, waiting) == stored
        assert (await after.http.get("/v2/keys")).json() == keys
        assert stored["queues"][0]["lag"] == 1
        await after.http.post("/v2/queues/q/resume")
        request = await receiver.next_request("/queued")
        assert request.header("Upstash-Message-Id") == queued.json()["messageId"]
        assert (await after.http.delete(f"/v2/messages/{waiting}")).json() == {"cancelled": 1}


async def _everything(server: Running, message_id: str) -> dict[str, Any]:
    paths = ("queues", "topics", "schedules", "flowControl", "keys", "dlq", f"messages/{message_id}")
    return {path: (await server.http.get(f"/v2/{path}")).json() for path in paths}
