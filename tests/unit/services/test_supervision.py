"""The supervisor's rules, told as stories of ends: what it does next, how long it waits, when it gives up and why."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from ckpt_tui.services.supervision import (
    DAY_S,
    Action,
    Decision,
    Ended,
    Point,
    Policy,
    Standing,
    decide,
    end_words,
    exit_words,
    standing_of,
    start_words,
    try_later,
)

AT_500 = Point(name="rolling_step_000500.pt", step=500, lost_steps=120, lost_s=11.0)
UNTRAINED = Point(is_untrained=True)


def crash(at: float = 0.0, *, step: int | None = 620, code: int = 1, **more: object) -> Ended:
    return Ended(at=at, exit_code=code, step=step, **more)  # type: ignore[arg-type]


def story(
    ends: list[tuple[Ended, Point]], policy: Policy | None = None, standing: Standing | None = None
) -> tuple[Standing, list[Decision]]:
    """The decisions after each end, each next session begun from where the decision before it said."""
    policy = policy or Policy()
    standing = (standing or Standing()).begun_from(UNTRAINED) if standing is None else standing
    decisions = []
    for ended, point in ends:
        standing, decision = decide(policy, standing, ended, point)
        decisions.append(decision)
        standing = standing.begun_from(point)
    return standing, decisions


def test_a_crash_is_restarted_from_the_newest_valid_checkpoint_and_the_cost_is_told() -> None:
    standing, [decision] = story([(crash(code=-6, last_lines=("step 620", "NCCL gave up")), AT_500)])
    assert decision.action is Action.RESTART
    assert decision.told == (
        "killed by SIGABRT at step 620; last line: NCCL gave up; from rolling_step_000500.pt (step 500), 120 steps"
        f" (11 s) again; restart 1 of 10 in {decision.pause_s:.1f} s"
    )
    assert standing.restarts == 1
    _, [killed] = story([(crash(code=-9, last_lines=("loss 2.1",)), AT_500)])
    assert "loss 2.1" not in killed.told


@pytest.mark.parametrize(
    ("ended", "action", "exit_code", "words"),
    [
        (Ended(0, exit_code=0, step=900), Action.FINISHED, 0, "finished at step 900"),
        (Ended(0, exit_code=0, status="finished", reason="900 steps"), Action.FINISHED, 0, "finished (900 steps)"),
        # torchrun that stumbled after the training had said its end.
        (Ended(0, exit_code=1, status="finished"), Action.FINISHED, 0, "finished"),
        (Ended(0, exit_code=None, status="finished"), Action.FINISHED, 0, "finished"),
        (Ended(0, exit_code=143, status="preempted", asked="SIGTERM"), Action.STOPPED, 143, "stopped by SIGTERM"),
        (Ended(0, exit_code=-15, asked="SIGTERM"), Action.STOPPED, 143, "stopped by SIGTERM"),
        (Ended(0, exit_code=0, asked="SIGINT"), Action.STOPPED, 0, "stopped by SIGINT"),
        (Ended(0, exit_code=143, status="preempted", reason="SIGTERM"), Action.STOPPED, 143, "somebody stopped it"),
        (Ended(0, exit_code=None, status="preempted"), Action.STOPPED, 143, "somebody stopped it"),
        (Ended(0, exit_code=None, status="interrupted"), Action.STOPPED, 130, "somebody stopped it"),
        (Ended(0, exit_code=-2), Action.STOPPED, 130, "somebody stopped it"),
        (Ended(0, exit_code=130), Action.STOPPED, 130, "somebody stopped it"),
        (Ended(0, exit_code=1, status="diverged", reason="4 rollbacks"), Action.GIVE_UP, 1, "--restart-diverged"),
        (Ended(0, exit_code=2, is_own=True), Action.GIVE_UP, 1, "the same way again"),
        (Ended(0, exit_code=127), Action.GIVE_UP, 1, "the same way again"),
        (Ended(0, exit_code=2), Action.RESTART, 0, "exit code 2"),
        (Ended(0, exit_code=1, status="failed", reason="OSError: gone"), Action.RESTART, 0, "failed (exit code 1)"),
        # A trainer that exits 0 although it says that it failed.
        (Ended(0, exit_code=0, status="failed"), Action.RESTART, 0, "failed (exit code 0)"),
        (Ended(0, exit_code=None), Action.RESTART, 0, "gone without a word"),
        (Ended(0, exit_code=-15), Action.RESTART, 0, "killed by SIGTERM"),
        (Ended(0, exit_code=143, status="preempted", silent_s=900.0), Action.RESTART, 0, "stalled: silent for 15m 00s"),
        (Ended(0, exit_code=0, silent_s=900.0), Action.RESTART, 0, "stalled"),
        (Ended(0, exit_code=-9, memory="2 kills in its cgroup"), Action.RESTART, 0, "out of memory: 2 kills"),
    ],
)  # fmt: skip
def test_each_way_to_end(ended: Ended, action: Action, exit_code: int, words: str) -> None:
    _, decision = decide(Policy(), Standing(), ended, AT_500)
    assert (decision.action, decision.exit_code) == (action, exit_code)
    assert words in decision.told


def test_diverged_is_restarted_only_on_request_and_else_says_what_to_do() -> None:
    diverged = Ended(0, exit_code=1, status="diverged", step=620)
    _, decision = decide(Policy(), Standing(), diverged, AT_500)
    assert "a checkpoint before step 500" in decision.told
    _, decision = decide(Policy(restart_diverged=True), Standing(), diverged, AT_500)
    assert decision.action is Action.RESTART


def test_pauses_double_to_their_limit_and_begin_anew_after_progress() -> None:
    policy = Policy(pause_s=5.0, max_pause_s=60.0, max_restarts=0, same_step_limit=0)
    ends = [(crash(), AT_500)] * 6 + [(crash(), Point(name="rolling_step_001000.pt", step=1000))]
    _, decisions = story(ends, policy, Standing().begun_from(AT_500))
    usual = [5, 10, 20, 40, 60, 60, 5]
    for decision, expected in zip(decisions, usual, strict=True):
        assert 0.8 * expected <= decision.pause_s <= min(1.2 * expected, 60)


def test_pauses_waver_by_the_seed_alone() -> None:
    def pauses(seed: int) -> list[float]:
        policy = Policy(seed=seed, same_step_limit=0)
        return [decision.pause_s for decision in story([(crash(), AT_500)] * 4, policy)[1]]

    assert pauses(1) == pauses(1)
    assert pauses(1) != pauses(2)


def test_the_limit_of_restarts_is_within_a_day() -> None:
    policy = Policy(max_restarts=3, same_step_limit=0)
    _, decisions = story([(crash(at=hour * 3600.0, step=hour), AT_500) for hour in range(4)], policy)
    assert [decision.action for decision in decisions] == [Action.RESTART] * 3 + [Action.GIVE_UP]
    assert "restarted 3 times within a day, which is the limit (--max-restarts)" in decisions[-1].told
    assert decisions[-1].exit_code == 1
    slowly = [(crash(at=number * DAY_S / 3, step=number), AT_500) for number in range(30)]
    assert all(decision.action is Action.RESTART for decision in story(slowly, policy)[1])
    assert all(d.action is Action.RESTART for d in story([(crash(step=n), AT_500) for n in range(99)],
                                                         Policy(max_restarts=0, same_step_limit=0))[1])  # fmt: skip


def test_it_gives_up_where_it_dies_at_the_same_step_again_and_again() -> None:
    ends = [
        (crash(step=step, code=code, last_lines=("Traceback", f"IndexError: {step}")), AT_500)
        for step, code in ((1234, 1), (1236, -11), (1235, 1))
    ]
    _, decisions = story(ends, standing=Standing().begun_from(AT_500))
    assert [decision.action for decision in decisions] == [Action.RESTART, Action.RESTART, Action.GIVE_UP]
    told = decisions[-1].told
    assert "died at step 1,236 3 times without a new checkpoint" in told
    for words in ("1. exit code 1 at step 1,234", "2. killed by SIGSEGV at step 1,236", "IndexError: 1235"):
        assert words in told


def test_an_emergency_checkpoint_at_the_bad_step_does_not_hide_that_it_is_the_same_one() -> None:
    # The trainer saves what it has when an exception comes: the next session begins right before the bad batch.
    emergency = Point(name="emergency_step_001234.pt", step=1234)
    _, decisions = story([(crash(step=1234), emergency)] * 3, standing=Standing().begun_from(AT_500))
    assert [decision.action for decision in decisions] == [Action.RESTART, Action.RESTART, Action.GIVE_UP]


def test_dying_at_different_steps_or_between_new_checkpoints_is_no_reason_to_give_up() -> None:
    policy = Policy(max_restarts=0)
    _, decisions = story([(crash(step=600 + 50 * number), AT_500) for number in range(8)], policy)
    assert all(decision.action is Action.RESTART for decision in decisions)
    onward = [(crash(step=620), Point(name="latest.pt", step=500 + number)) for number in range(8)]
    assert all(decision.action is Action.RESTART for decision in story(onward, policy)[1])


def test_a_program_that_never_comes_to_a_step_is_given_up_too() -> None:
    _, decisions = story([(crash(step=None, last_lines=("ImportError: torch",)), UNTRAINED)] * 3)
    assert decisions[-1].action is Action.GIVE_UP
    assert "before it told of a step 3 times" in decisions[-1].told
    mixed = [(crash(step=None), AT_500), (crash(step=620), AT_500), (crash(step=None), AT_500)]
    assert story(mixed)[1][-1].action is Action.RESTART


def test_it_never_starts_over_from_nothing_over_a_training_that_is_there() -> None:
    bad = Point(why_none="latest.pt (step 500) is damaged; latest_backup.pt is damaged")
    _, decision = decide(Policy(), Standing(), crash(), bad)
    assert decision.action is Action.GIVE_UP
    assert "Nothing to resume from: latest.pt (step 500) is damaged" in decision.told
    _, decision = decide(Policy(), Standing(), crash(step=3), UNTRAINED)
    assert decision.action is Action.RESTART
    assert "from step 0: no checkpoint was saved yet" in decision.told


def test_a_full_disk_is_waited_for_and_does_not_count_as_a_bug_but_has_the_limit() -> None:
    full = Point(name="latest.pt", step=500, free_bytes=1_000_000, needed_bytes=258_000_000)
    policy = Policy(max_restarts=5)
    standing = Standing().begun_from(AT_500)
    standing, decision = decide(policy, standing, crash(), full)
    assert decision.action is Action.RESTART
    assert "the disk is full: 1.0 MB free, 258.0 MB needed" in decision.told
    waits = []
    for number in range(5):
        standing, decision = try_later(policy, standing, full, now=number)
        waits.append(decision.action)
    assert waits == [Action.RESTART] * 4 + [Action.GIVE_UP]
    assert standing.restarts == 0  # none was made
    assert standing.deaths == ()


def test_restarts_are_left_to_who_is_in_charge_of_them() -> None:
    _, decision = decide(Policy(restarts_by="torchrun"), Standing(), crash(code=1), AT_500)
    assert (decision.action, decision.exit_code) == (Action.GIVE_UP, 1)
    assert "torchrun is in charge of restarts" in decision.told
    _, decision = decide(Policy(restarts_by="torchrun"), Standing(), crash(last_lines=("NCCL gave up",)), AT_500)
    assert "last lines: NCCL gave up" in decision.told
    _, decision = decide(Policy(restarts_by="slurm"), Standing(), Ended(0, exit_code=0), AT_500)
    assert decision.action is Action.FINISHED


def test_our_trainer_that_is_refused_is_tried_once_more_where_it_ran_before() -> None:
    refused = Ended(0, exit_code=2, is_own=True)
    _, decisions = story([(crash(), AT_500), (refused, AT_500), (refused, AT_500)])
    assert [decision.action for decision in decisions] == [Action.RESTART, Action.RESTART, Action.GIVE_UP]
    assert "the same way again" in decisions[-1].told


def test_a_stop_wins_over_everything_that_went_wrong_meanwhile() -> None:
    standing = Standing(restarted_at=(0.0,) * 10)
    for ended in (crash(asked="SIGTERM"), Ended(0, exit_code=1, status="diverged", asked="SIGINT"),
                  Ended(0, exit_code=-9, asked="SIGHUP", silent_s=5.0)):  # fmt: skip
        assert decide(Policy(), standing, ended, AT_500)[1].action is Action.STOPPED


def test_what_is_remembered_survives_as_json_and_anything_else_begins_anew() -> None:
    standing, _ = story([(crash(step=None, last_lines=("a", "b")), AT_500), (crash(step=7), AT_500)])
    assert standing_of(json.loads(json.dumps(asdict(standing)))) == standing
    for garbage in (None, [], {}, {"restarts": "many"}, {**asdict(standing), "deaths": [{}]}, {"deaths": 7}):
        assert standing_of(garbage) == Standing()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (1, "exit code 1"), (-9, "killed by SIGKILL"), (137, "exit code 137 (SIGKILL)"),
     (-200, "killed by signal 200"), (255, "exit code 255"), (None, "gone without a word")],
)  # fmt: skip
def test_exit_codes_in_words(code: int | None, words: str) -> None:
    assert exit_words(code) == words


def test_nothing_that_a_log_or_a_name_holds_speaks_to_the_terminal() -> None:
    hostile = "\x1b]0;x\x07\n"
    ended = Ended(0, exit_code=1, status="failed", reason=hostile, memory=hostile, last_lines=(hostile,))
    point = Point(name=hostile, step=1, passed_over=(hostile,))
    told = end_words(ended) + start_words(point) + story([(ended, point)] * 3)[1][-1].told
    told += decide(Policy(), Standing(), ended, Point(why_none="x"))[1].told
    assert "\x1b" not in told
    assert "\n" not in told


def test_what_is_remembered_stays_small_whatever_is_printed_and_however_often() -> None:
    policy = Policy(max_restarts=0, same_step_limit=0)
    ends = [(crash(at=float(at), step=at * 10, last_lines=("\x01" * 16_000,)), UNTRAINED) for at in range(1200)]
    standing, _ = story(ends, policy)
    assert len(json.dumps(asdict(standing), indent=1)) < 100_000  # a record of over a megabyte is not read
