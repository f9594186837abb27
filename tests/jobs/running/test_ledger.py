"""Bounded retries: whichever images kill their device, they and only they are given up."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.pipeline.attempts import MOST_ATTEMPTS, Quarantine
from jobs.pipeline.ledger import ENDED, Ledger, check_seconds
from jobs.running.attempt import Attempt
from jobs.running.manifest import Manifest
from vit_actor.errors import UserError

FAILS = (["board 0 chip 1"], "it is wrong")


def ledger_with(*meshes: str, parts: int = 1, actors: int = 1) -> Ledger:
    """A ledger of a run on these meshes, which are open and checked."""
    ledger = Ledger()
    ledger.listing(parts, actors)
    for mesh in meshes:
        ledger.arrive(mesh, f"node of {mesh}", 1.0)
    return ledger


def events(ledger: Ledger) -> list[str]:
    return [event["what"] for event in ledger.account()["events"]]


def run_chunk(images: int, poison: set[int], batch_size: int = 64) -> tuple[list[int], set[int], int]:
    """Play an actor that dies whenever a poisoned image reaches its device: images answered and given up, attempts."""
    ledger = Ledger()
    for attempt in range(1, 10 * MOST_ATTEMPTS):
        quarantine = ledger.begin("chunk", images, batch_size, "host/0-3")
        assert quarantine != "stop"
        if quarantine is None:
            continue  # died
        answered: list[int] = []
        for start, end in quarantine.pieces:
            ledger.trying("chunk", (start, end))
            if poison & set(range(start, end)):
                break
            answered += range(start, end)
        else:
            return answered, quarantine.given_up, attempt
    pytest.fail("the chunk never came through")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 512).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=2))))
def test_the_images_that_kill_the_device_are_given_up_and_no_others(case: tuple[int, set[int]]) -> None:
    images, poison = case
    assert run_chunk(images, poison)[:2] == ([i for i in range(images) if i not in poison], poison)


def test_a_chunk_of_nothing_but_poison_ends_within_the_most_attempts() -> None:
    answered, given_up, attempts = run_chunk(512, set(range(512)))
    assert (answered, given_up, attempts <= 41) == ([], set(range(512)), True)


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


def test_an_actor_killed_for_another_reason_costs_retries_but_no_image() -> None:
    ledger = Ledger()
    attempts = [ledger.begin("chunk", 100, 64, "host/0-3") for _ in range(3)]
    assert attempts == [None, None, Quarantine([(0, 64), (64, 100)], set())]
    ledger.trying("chunk", (0, 64))  # killed here by chance, once
    pieces = [*((image, image + 1) for image in range(64)), (64, 100)]
    assert ledger.begin("chunk", 100, 64, "host/0-3") == Quarantine(pieces, set())
    assert (ledger.account()["retries"], ledger.account()["images_again"]) == (3, 300)


def test_an_actor_that_arrives_twice_on_a_mesh_is_a_restart() -> None:
    account = ledger_with("a/0-3", "b/0-3", "a/0-3").account()
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
    ledger = ledger_with("a/0-3")
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
    ledger = ledger_with(actors=2)
    for start in ("open", "wait"):
        ledger.opening("a/0-3")
        ledger.failed("a/0-3", *FAILS)
        ledger.note("device", "a/0-3", "it is wrong")
        assert (ledger.start("a/0-3"), ledger.none_left()) == (start, None)
    ledger.opening("b/0-3")
    for _ in range(2):
        ledger.arrive("b/0-3", "node", 1.0)
        ledger.failed("b/0-3", ["board 0 chip 1"], "it is wrong too")
    assert ledger.start("b/0-3") == "out"
    assert ledger.none_left() == "a/0-3: it is wrong; b/0-3: it is wrong too; no other mesh is left"
    assert [life["checks"] for life in ledger.account()["checks"]] == [1, 1, 2, 2]


def test_attempts_on_a_mesh_that_fails_its_check_do_not_put_a_chunk_in_quarantine() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.arrive("a/0-3", "node", 1.0)
        assert ledger.begin("chunk", 64, 64, "a/0-3") is None
        ledger.failed("a/0-3", *FAILS)
    assert (ledger.account()["retries"], ledger.account()["images_again"]) == (2, 128)


def test_images_of_a_further_pass_are_counted_as_classified_again_and_a_mesh_that_stays_out_is_not_waited_for() -> None:
    ledger = ledger_with("a/0-3", "b/0-3", actors=2)
    ledger.passed_over(10)
    for mesh, chunk in (("a/0-3", "x"), ("b/0-3", "y")):
        ledger.begin(chunk, 64, 64, mesh)
        ledger.classified(64)
        ledger.done(chunk, mesh, 0)
    ledger.passed("b/0-3", 1)
    for _ in range(2):
        ledger.failed("a/0-3", *FAILS)
    assert ledger.doubtful() == ["x"]
    ledger.listing(1, 2, frozenset({"x"}))
    ledger.passed_over(10)
    ledger.begin("x", 64, 64, "b/0-3")
    ledger.classified(64)
    assert [ledger.account()[what] for what in ("images_again", "retries", "committed_before")] == [64, 1, 10]
    assert {what: ledger.pace()[what] for what in ("classified", "open", "meshes")} == {"classified": 128, "open": 1, "meshes": 1}


def test_once_it_drains_neither_reading_nor_a_device_is_given_another_chunk() -> None:
    ledger = Ledger()
    assert ledger.begin("on the device", 64, 64, "a/0-3") is None
    ledger.drain()
    given = ledger.begin_shard("shard"), ledger.begin_reading("unread"), ledger.begin("decoded", 64, 64, "a/0-3")
    assert (*given, ledger.is_draining(), ledger.more_is_coming()) == (None, None, "stop", True, False)


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
    assert (ledger.account()["not_open"], events(ledger)) == (["host/0-3"], [])
    ledger.opening("host/0-3")
    ledger.note("device", "host/0-3", "no Tenstorrent chip found")
    ledger.opening("host/0-3")
    assert events(ledger) == [ENDED, "no Tenstorrent chip found"]
    ledger.arrive("host/0-3", "node")
    assert (ledger.account()["not_open"], ledger.account()["opened_at"]) == ([], pytest.approx(time.time(), abs=60))


def test_more_is_coming_until_all_is_listed_read_and_begun() -> None:
    ledger = ledger_with(parts=2)
    ledger.listed(0, 1)
    ledger.begin_reading("x")
    assert ledger.more_is_coming()
    ledger.done_reading("x", 64)
    ledger.shard_read("shard", 2)
    ledger.begin("x", 512, 64, "mesh")
    assert ledger.more_is_coming(), "the other part is not listed yet"
    ledger.listed(1, 0)
    assert not ledger.more_is_coming()
    ledger.done_reading("y", 64)
    assert (ledger.more_is_coming(), ledger.more_is_coming(1)) == (True, False), "a chunk is on its way"


def test_a_mesh_is_down_from_its_loss_until_it_is_back() -> None:
    ledger = ledger_with("mesh")
    ledger.note("device", "mesh", "lost")
    time.sleep(0.02)
    ledger.arrive("mesh", "node")
    assert 0.02 <= (once := ledger.account()["down_seconds"]["mesh"]) < 10
    time.sleep(0.02)  # nobody tells of this loss: it was heard of last when it arrived
    ledger.arrive("mesh", "node")
    assert once + 0.02 <= ledger.account()["down_seconds"]["mesh"] < once + 10


def test_what_kills_its_reader_is_counted_until_it_is_read_and_a_shard_only_where_none_of_its_chunks_is() -> None:
    ledger = Ledger()
    assert [ledger.begin_shard("a-0") for _ in range(3)] == [1, 2, 3]
    assert [ledger.begin_reading("a-0.00000") for _ in range(3)] == [1, 2, 3]
    assert ledger.begin_shard("a-0") == 4, "not told: its chunk is"
    what = [f"attempt {n} at reading {what}" for what in ("shard a-0", "a-0.00000") for n in (2, 3)]
    assert (ledger.account()["retries"], events(ledger)) == (4, what)
    ledger.done_reading("a-0.00000", 64)
    ledger.shard_read("a-0", 2)
    assert (ledger.begin_reading("a-0.00000"), ledger.begin_shard("a-0")) == (1, 1)


def test_actors_without_boards_keep_their_number_on_their_host() -> None:
    ledger = Ledger(1, 2)
    assert [ledger.place(*place) for place in (("a", "x"), ("a", "y"), ("b", "z"), ("a", "x"))] == [1, 3, 1, 1]
    ledger.released("a/cpu-1")
    assert ledger.start("a/cpu-1") == "later"


def test_storage_that_is_waited_for_is_told_after_a_while_and_not_at_once_again() -> None:
    ledger = Ledger()
    for who, what, seconds in (("a", "slow", 1.0), ("b", "slow", 6.0), ("b", "slow", 7.0), ("b", None, 7.0)):
        ledger.storage_waits(who, what, seconds)
    assert events(ledger) == ["slow; since 6 s; 2 tasks wait"]


def test_the_account_has_what_was_passed_over_and_what_was_read() -> None:
    ledger = ledger_with()
    ledger.passed_over(10)
    ledger.passed_over(5)
    for shard, images in (("s", 7), ("s", 7), ("t", 1)):  # again is the same shard
        ledger.shard_read(shard, images)
    ledger.done_reading("s.0", 3, True)
    ledger.done_reading("s.1", 4)
    account = ledger.account()
    assert [account[what] for what in ("committed_before", "images_read", "cached")] == [15, 8, 3]


def test_what_a_mesh_said_is_told_also_while_it_is_being_opened_again() -> None:
    attempt, ledger = Attempt("out", Manifest("run", "imagenet", "", "", "", [], None, {}, {}), [], "cpu"), Ledger()
    ledger.opening("host/0-3")
    assert attempt.cause(Exception(), ledger.account()) == "host/0-3: a process ended while it opened its device"
    ledger.note("device", "host/0-3", "no such file")
    ledger.opening("host/0-3")
    assert attempt.cause(Exception(), ledger.account()) == "host/0-3: no such file"
