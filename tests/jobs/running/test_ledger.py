"""Bounded retries: whichever images kill their device, they and only they are given up."""

import random
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.pipeline.attempts import MOST_ATTEMPTS, Quarantine
from jobs.pipeline.ledger import Ledger, check_seconds
from jobs.running.attempt import Attempt
from jobs.running.manifest import Manifest
from vit_actor.errors import UserError


@dataclass
class Outcome:
    answered: list[int]
    given_up: set[int]
    attempts: int


def run_chunk(images: int, poison: set[int], batch_size: int = 64) -> Outcome:
    """Play an actor that dies whenever a poisoned image reaches its device, until an attempt comes through."""
    ledger = Ledger()
    for attempt in range(1, 10 * MOST_ATTEMPTS):
        quarantine = ledger.begin("chunk", images, batch_size, "host/0-3")
        assert quarantine != "stop"
        if quarantine is None:
            if not poison:
                return Outcome(list(range(images)), set(), attempt)
            continue  # died
        answered: list[int] = []
        for start, end in quarantine.pieces:
            ledger.trying("chunk", (start, end))
            if poison & set(range(start, end)):
                break
            answered += range(start, end)
        else:
            return Outcome(answered, quarantine.given_up, attempt)
    pytest.fail("the chunk never came through")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 512).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=2))))
def test_the_images_that_kill_the_device_are_given_up_and_no_others(case: tuple[int, set[int]]) -> None:
    images, poison = case
    outcome = run_chunk(images, poison)
    assert outcome.given_up == poison
    assert outcome.answered == [i for i in range(images) if i not in poison]


def test_a_chunk_of_nothing_but_poison_ends_within_the_most_attempts() -> None:
    outcome = run_chunk(512, set(range(512)))
    assert outcome.attempts <= MOST_ATTEMPTS + 1
    assert outcome.given_up == set(range(512))


def test_an_actor_killed_for_another_reason_costs_retries_but_no_image() -> None:
    ledger = Ledger()
    for _ in range(3):
        quarantine = ledger.begin("chunk", 100, 64, "host/0-3")
    assert isinstance(quarantine, Quarantine)
    assert quarantine.pieces == [(0, 64), (64, 100)]
    ledger.trying("chunk", (0, 64))  # killed here by chance, once
    quarantine = ledger.begin("chunk", 100, 64, "host/0-3")
    assert isinstance(quarantine, Quarantine)
    assert quarantine.pieces == [*((image, image + 1) for image in range(64)), (64, 100)]
    assert quarantine.given_up == set()
    assert ledger.account()["retries"] == 3
    assert ledger.account()["images_again"] == 300


def test_an_actor_that_arrives_twice_on_a_mesh_is_a_restart() -> None:
    ledger = Ledger()
    for mesh in ("a/0-3", "b/0-3", "a/0-3"):
        ledger.arrive(mesh, f"node-of-{mesh}")
    account = ledger.account()
    assert (account["restarts"], account["lost_hosts"], account["meshes"]) == (1, [], ["a/0-3", "b/0-3"])
    assert [(e["kind"], e["where"]) for e in account["events"]] == [("restart", "a/0-3")]


def test_a_host_whose_node_is_gone_is_a_lost_host_even_where_another_of_its_name_came_back() -> None:
    ledger = Ledger()
    for mesh, node in (("a/0-3", "first"), ("b/0-3", "second"), ("a/0-3", "third")):
        ledger.arrive(mesh, node)
    assert ledger.account(alive={"second", "third"})["lost_hosts"] == ["a"]


def play(seed: int) -> tuple[Ledger, set[str], set[str]]:
    """A ledger after 100 random events on two meshes, all chunks that were done, and those that a later check has proved."""
    dice, ledger = random.Random(seed), Ledger()
    begun: dict[str, int] = {}
    answered: dict[str, list[str]] = {}
    every, right = set[str](), set[str]()

    def another(mesh: str) -> str:
        name = f"{mesh} {dice.randrange(20)}"
        every.add(name)
        right.discard(name)
        return name

    events = ("open", "chunk", "chunk", "chunk", "commit and die", "pass", "pass with a chunk meanwhile", "fail", "leave")
    for step in range(100):
        mesh, what = dice.choice(("a/0-3", "b/0-3")), dice.choice(events)
        if what == "open" or mesh not in begun:
            ledger.arrive(mesh, "node", float(step))
            begun[mesh], answered[mesh] = 0, []
        elif what == "fail":
            ledger.failed(mesh, ["board 0 chip 1"], "it is wrong")
            ledger.done(another(mesh), mesh, begun.pop(mesh))  # by another thread, before the end
        elif what == "commit and die":
            ledger.begin(chunk := another(mesh), 64, 64, mesh)
            answered[mesh] = [other for other in answered[mesh] if other != chunk]
        elif what == "leave":
            ledger.released(mesh)
            del begun[mesh]
        elif what == "chunk":
            ledger.done(chunk := another(mesh), mesh, begun[mesh])
            answered[mesh].append(chunk)
        else:
            begun[mesh] += 1
            right |= set(answered[mesh])
            answered[mesh] = []
            if what == "pass with a chunk meanwhile":
                ledger.done(chunk := another(mesh), mesh, begun[mesh])
                answered[mesh].append(chunk)
            ledger.passed(mesh, begun[mesh])
    return ledger, every, right


def test_a_chunk_is_done_again_unless_a_check_that_was_begun_after_its_answers_has_passed() -> None:
    for seed in range(100):
        ledger, every, right = play(seed)
        assert ledger.doubtful(last=True) == sorted(every - right), seed
        lives = ledger.account()["checks"]
        assert all(life["checks"] == 1 + life["passed"] + bool(life["failed"]) for life in lives)


def test_a_chunk_is_waited_for_from_its_beginning_until_it_is_committed_and_checked() -> None:
    ledger = Ledger()
    ledger.arrive("a/0-3", "node", 1.0)
    ledger.begin("chunk", 64, 64, "a/0-3")
    assert ledger.doubtful() is None
    ledger.done("chunk", "a/0-3", 0)
    assert ledger.doubtful() is None
    ledger.passed("a/0-3", 1)
    assert ledger.doubtful() == []


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, 60), ("", 60), ("0.2", 0.2), *((bad, None) for bad in ("1m", "0", "0.0", "-1", "nan"))],
)
def test_the_time_between_checks_is_above_0(monkeypatch: pytest.MonkeyPatch, given: str | None, seconds: float | None) -> None:
    monkeypatch.delenv("LOUDBOX_CHECK_SECONDS", raising=False)
    if given is not None:
        monkeypatch.setenv("LOUDBOX_CHECK_SECONDS", given)
    if seconds:
        assert check_seconds() == seconds
    else:
        with pytest.raises(UserError, match=f"LOUDBOX_CHECK_SECONDS={given}: give a number of seconds above 0"):
            check_seconds()


def test_a_mesh_that_fails_its_checks_stays_out_and_a_run_without_another_ends() -> None:
    ledger = Ledger()
    ledger.listing(1, 2)
    for failures in (1, 2):
        ledger.opening("a/0-3")
        ledger.failed("a/0-3", ["board 0 chip 1"], "it is wrong")
        ledger.note("device", "a/0-3", "it is wrong")
        assert (ledger.out("a/0-3") is None) == (failures < 2)
        assert ledger.none_left() is None
    assert ledger.waits("a/0-3")
    ledger.opening("b/0-3")
    for _ in range(2):
        ledger.arrive("b/0-3", "node", 1.0)
        ledger.failed("b/0-3", ["board 0 chip 1"], "it is wrong too")
    assert ledger.none_left() == "a/0-3: it is wrong; b/0-3: it is wrong too; no other mesh is left"
    assert [life["checks"] for life in ledger.account()["checks"]] == [1, 1, 2, 2]


def test_attempts_on_a_mesh_that_fails_its_check_do_not_put_a_chunk_in_quarantine() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.arrive("a/0-3", "node", 1.0)
        assert ledger.begin("chunk", 64, 64, "a/0-3") is None
        ledger.failed("a/0-3", ["board 0 chip 1"], "it is wrong")
    assert (ledger.account()["retries"], ledger.account()["images_again"]) == (2, 128)


def test_images_of_a_further_pass_are_counted_as_classified_again_and_a_mesh_that_stays_out_is_not_waited_for() -> None:
    ledger = Ledger()
    ledger.listing(1, 2)
    for mesh in ("a/0-3", "b/0-3"):
        ledger.arrive(mesh, "node", 1.0)
    for mesh, chunk in (("a/0-3", "x"), ("b/0-3", "y")):
        ledger.begin(chunk, 64, 64, mesh)
        ledger.classified(64)
        ledger.done(chunk, mesh, 0)
    ledger.passed("b/0-3", 1)
    for _ in range(2):
        ledger.failed("a/0-3", ["board 0 chip 1"], "it is wrong")
    assert ledger.doubtful() == ["x"]
    ledger.again()
    ledger.begin("x", 64, 64, "b/0-3")
    ledger.classified(64)
    assert ledger.account()["images_again"] == 64
    assert {what: ledger.pace()[what] for what in ("classified", "open", "meshes")} == {"classified": 128, "open": 1, "meshes": 1}


def test_once_it_drains_neither_reading_nor_a_device_is_given_another_chunk() -> None:
    ledger = Ledger()
    assert ledger.begin("on the device", 64, 64, "a/0-3") is None
    ledger.drain()
    assert ledger.is_draining()
    assert ledger.begin_reading("unread") is None
    assert ledger.begin("decoded", 64, 64, "a/0-3") == "stop"


def test_a_mesh_whose_actor_was_replaced_is_open_once_it_is_open_again() -> None:
    ledger = Ledger()
    seen = []
    for _ in range(2):
        ledger.opening("a/0-3")
        seen.append(ledger.pace()["open"])
        ledger.arrive("a/0-3", "node", 1.0)
        seen.append(ledger.pace()["open"])
    assert seen == [0, 1, 0, 1]


def test_a_process_that_ended_while_it_opened_its_chips_is_noticed_by_the_next_one_and_an_error_is_no_death() -> None:
    ledger = Ledger()
    ledger.opening("host/0-3")
    assert (ledger.account()["not_open"], ledger.account()["events"]) == (["host/0-3"], [])
    ledger.opening("host/0-3")
    [event] = ledger.account()["events"]
    assert "ended while it opened" in event["what"]
    ledger.note("device", "host/0-3", "no Tenstorrent chip found")
    ledger.opening("host/0-3")
    assert [each["what"] for each in ledger.account()["events"]] == [event["what"], "no Tenstorrent chip found"]
    ledger.arrive("host/0-3", "node")
    account = ledger.account()
    assert account["not_open"] == []
    assert account["opened_at"] == pytest.approx(event["at"], abs=60)


def test_more_is_coming_until_all_is_listed_read_and_begun() -> None:
    ledger = Ledger()
    ledger.listing(2)
    ledger.listed(0, 1)
    assert ledger.more_is_coming()
    ledger.begin_reading("x")
    ledger.done_reading("x", 64)
    ledger.shard_read("shard", 2)
    assert ledger.more_is_coming()  # the other part is not listed yet
    ledger.listed(1, 0)
    assert ledger.more_is_coming()  # a chunk is on its way
    ledger.begin("x", 512, 64, "mesh")
    assert not ledger.more_is_coming()
    ledger.listing(1)
    ledger.drain()
    assert not ledger.more_is_coming()


def test_a_mesh_is_down_from_its_loss_until_it_is_back() -> None:
    ledger = Ledger()
    ledger.arrive("mesh", "node")
    ledger.note("device", "mesh", "lost")
    time.sleep(0.02)
    ledger.arrive("mesh", "node")
    assert 0.02 <= (once := ledger.account()["down_seconds"]["mesh"]) < 10
    time.sleep(0.02)  # nobody tells of this loss: it was heard of last when it arrived
    ledger.arrive("mesh", "node")
    assert once + 0.02 <= ledger.account()["down_seconds"]["mesh"] < once + 10


def test_what_kills_its_reader_twice_is_read_apart_and_what_is_read_starts_anew() -> None:
    ledger = Ledger()
    assert [ledger.begin_reading("a-0.00000") for _ in range(4)] == [1, 2, 3, 4]
    ledger.done_reading("a-0.00000", 64)
    assert ledger.begin_reading("a-0.00000") == 1
    assert ledger.account()["retries"] == 3
    assert [event["what"] for event in ledger.account()["events"]] == [f"attempt {n} at reading a-0.00000" for n in (2, 3, 4)]


def test_an_image_is_given_up_after_its_second_death_alone_and_not_after_its_first() -> None:
    ledger = Ledger()
    found = []
    for _ in range(5):
        found.append(ledger.begin("chunk", 1, 64, "host/0-3"))
        if isinstance(found[-1], Quarantine) and found[-1].pieces:
            ledger.trying("chunk", (0, 1))
    assert found[:2] == [None, None], "a chunk is tried as it is twice"
    assert found[2:] == [Quarantine([(0, 1)], set()), Quarantine([(0, 1)], set()), Quarantine([], {0})]
    ledger.done("chunk", "host/0-3", None)
    assert (ledger.account()["given_up"], ledger.account()["events"][-1]["kind"]) == (1, "image")
    assert ledger.begin("chunk", 1, 64, "host/0-3") is None, "what is done is forgotten"


def test_actors_without_boards_keep_their_number_on_their_host() -> None:
    ledger = Ledger(1, 2)
    assert [ledger.place(*place) for place in (("a", "x"), ("a", "y"), ("b", "z"), ("a", "x"))] == [1, 3, 1, 1]
    ledger.released("a/cpu-1")
    assert ledger.has_released()


def test_storage_that_is_waited_for_is_told_after_a_while_and_not_at_once_again() -> None:
    ledger = Ledger()
    ledger.storage_waits("a", "s3://b: slow", 1.0)
    ledger.storage_waits("b", "s3://b: slow", 6.0)
    ledger.storage_waits("b", "s3://b: slow", 7.0)
    ledger.storage_waits("b", None, 7.0)
    assert [event["what"] for event in ledger.account()["events"]] == ["s3://b: slow; since 6 s; 2 tasks wait"]


def test_the_account_has_what_was_passed_over_and_what_was_read() -> None:
    ledger = Ledger()
    ledger.listing(1)
    ledger.passed_over(10)
    ledger.passed_over(5)
    ledger.shard_read("s", 7)
    ledger.shard_read("s", 7)  # again is the same shard
    ledger.shard_read("t", 1)
    ledger.done_reading("s.0", 3, True)
    account = ledger.account()
    assert [account[what] for what in ("committed_before", "images_read", "cached")] == [15, 8, 3]


def test_a_shard_that_is_opened_again_and_again_is_counted_until_all_of_it_is_read() -> None:
    ledger = Ledger()
    assert [ledger.begin_shard("a-0") for _ in range(3)] == [1, 2, 3]
    ledger.begin_reading("a-0.00000")
    ledger.done_reading("a-0.00000", 64)
    assert ledger.begin_shard("a-0") == 4
    ledger.shard_read("a-0", 2)
    assert ledger.begin_shard("a-0") == 1
    assert ledger.account()["retries"] == 3
    told = [("retry", "decode", f"attempt {n} at reading shard a-0") for n in (2, 3)]
    assert [(event["kind"], event["where"], event["what"]) for event in ledger.account()["events"][:2]] == told
    ledger.drain()
    assert ledger.begin_shard("a-0") is None


def test_what_a_mesh_said_is_told_also_while_it_is_being_opened_again() -> None:
    attempt, ledger = Attempt("out", Manifest("run", "imagenet", "", "", "", [], None, {}, {}), [], "cpu"), Ledger()
    ledger.opening("host/0-3")
    assert attempt.cause(Exception(), ledger.account()) == "host/0-3: a process ended while it opened its device"
    ledger.note("device", "host/0-3", "no such file")
    ledger.opening("host/0-3")
    assert attempt.cause(Exception(), ledger.account()) == "host/0-3: no such file"
