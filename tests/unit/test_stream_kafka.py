"""What the brokers say, and whether to ask again."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.kafka import (
    LARGEST_PRODUCED,
    KafkaCluster,
    Watchdog,
    _Producer,
    _result,
    _translated,
    _unanswered,
)
from stream.ports import Aborted, Fenced, OutcomeUnknown, Refused, Unreachable
from stream.settings import Settings


class _Answers:
    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def result(self, timeout: float | None = None) -> object:
        raise self._failure


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError._AUTHENTICATION,
    ],
)
def test_a_missing_right_or_a_wrong_setting_does_not_pass_by_waiting(code: int) -> None:
    assert isinstance(_unanswered("orders/0", KafkaError(code)), Refused)
    assert isinstance(_translated("commit_transaction", KafkaException(KafkaError(code))), Refused)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError._ALL_BROKERS_DOWN,
    ],
)
def test_a_broker_that_is_away_comes_back(code: int) -> None:
    assert isinstance(_unanswered("orders/0", KafkaError(code)), Unreachable)


def test_an_error_nobody_knows_that_is_fatal_is_not_asked_for_again() -> None:
    assert isinstance(_unanswered("init", KafkaError(KafkaError.UNKNOWN, fatal=True)), Refused)
    assert isinstance(_unanswered("init", KafkaError(KafkaError._FENCED, fatal=True)), Unreachable)


def test_what_a_failed_call_says_about_the_transaction_is_kept() -> None:
    def said(error: KafkaError) -> type[Exception]:
        return type(_translated("commit_transaction", KafkaException(error)))

    assert said(KafkaError(KafkaError._FENCED)) is Fenced
    assert said(KafkaError(KafkaError.INVALID_PRODUCER_EPOCH)) is Fenced
    assert said(KafkaError(KafkaError.PRODUCER_FENCED)) is Fenced
    assert said(KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)) is Aborted
    assert said(KafkaError(KafkaError._TIMED_OUT, retriable=True)) is OutcomeUnknown


class _LosesItsError:
    def flush(self, _: float) -> int:
        raise SystemError("<method 'flush'> returned NULL without setting an exception")


def test_a_flush_that_loses_its_error_is_of_unknown_outcome_and_no_crash() -> None:
    producer = _Producer.__new__(_Producer)
    producer._producer = _LosesItsError()  # type: ignore[assignment]
    producer._watchdog, producer._timeout = Watchdog(30), 1.0

    with pytest.raises(OutcomeUnknown, match="flush: "):
        producer.flush()


def test_an_answer_that_never_comes_is_no_crash() -> None:
    with pytest.raises(Unreachable, match=r"topic orders: no answer within 10 s"):
        _result("topic orders", _Answers(TimeoutError()))


def test_an_admin_clients_answer_is_judged_like_any_other() -> None:
    with pytest.raises(Refused, match="TOPIC_AUTHORIZATION_FAILED"):
        _result("orders", _Answers(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))))


def test_a_client_that_cannot_be_made_is_refused_with_the_settings_to_look_at() -> None:
    settings = Settings.model_validate({"security": {"protocol": "SSL", "ca_file": "no-such.pem"}})

    with pytest.raises(Refused, match=r"ssl\.ca\.location"):
        KafkaCluster(settings)


def test_what_a_producer_takes_is_no_limit_of_an_input() -> None:
    # the broker counts 1 MiB compressed; JSON shrinks about tenfold, and absurd JSON more
    assert LARGEST_PRODUCED >= 32 * 1024 * 1024
