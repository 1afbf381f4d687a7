"""Two processes give the rows of one, and what goes wrong in one of them is known to both."""

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from linear_problem import linear_problem
from straight_attack import Straight
from two_processes import in_two_processes

from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import AuditInterrupted, AuditWriteError, Budget, Stage, Team, Workplace, certifying, run_audit
from lipcert.harness.journal import ROWS, Journal
from lipcert.harness.team import FabricTeam, launched_team

SECONDS = 240  # of a group that would otherwise hang

NETWORK, PIXELS, PREDICTION, _ = linear_problem(samples=23)
STAGES = (
    Stage(Straight(beyond=0.5, shaky=0.5), chunk=3),
    Stage(Straight(beyond=0.1, shaky=0.5), share=0.6, chunk=4),
)
REAL = partial(certify, arithmetic="real")


def audit(team, images=None, stages=STAGES, **workplace):
    images = images or ImageSet(PIXELS, PREDICTION)
    budget = Budget("two stages", stages)
    return run_audit(NETWORK, images, budget=budget, certifier=REAL, workplace=Workplace(team, **workplace))


def content(result):
    attacks = [replace(attack, seconds=0.0) for attack in result.attacks]
    return result.rows, attacks, [item.adversarial.tobytes() for item in result.gallery]


class InterruptedIn(Straight):
    """Ctrl-C reaches the process at its first chunk."""

    name = "interrupted"

    def run(self, model, task):
        raise KeyboardInterrupt


def same_rows(team, folder):
    return content(audit(team))


def goes_on(team, folder):
    """A journal that one process has begun, in the folder of both."""
    return content(audit(team, partial=folder / "begun"))


def refused_by_one(team, folder):
    """The second half of the images, which the second process certifies, has a label that there is not."""
    labels = PREDICTION.clone()
    labels[-1] = 9
    with pytest.raises(InputError) as refused:
        audit(team, ImageSet(PIXELS, labels))
    return str(refused.value)


def bug_in_one(team, folder):
    def work(piece):
        return piece if team.rank == 0 else {}["missing"]

    with pytest.raises(RuntimeError) as failed:
        team.in_turn([0, 1], work)
    return str(failed.value)


def disk_of_one(team, folder):
    """The leading process writes; its disk takes three records."""
    append, taken = Journal.append, []

    def full(self, record):
        taken.append(record)
        if team.leads and len(taken) > 3:
            raise OSError(28, "No space left on device")
        return append(self, record)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "append", full)
        if not team.leads:
            with pytest.raises(AuditWriteError):
                audit(team)
            return None
        with pytest.raises(AuditWriteError) as stopped:
            audit(team, partial=folder / "full")
    return sum(row.attacked for row in stopped.value.result.rows)


def interrupted_in_one(team, folder):
    """Ctrl-C is the leading process's to take; the other one finishes its chunk."""
    attack = InterruptedIn() if team.leads else Straight(beyond=0.5)
    with pytest.raises(AuditInterrupted) as stopped:
        audit(team, stages=(STAGES[0], Stage(attack, chunk=3)))
    return stopped.value.result.attacks[0].samples


WORK = (same_rows, goes_on, refused_by_one, bug_in_one, disk_of_one, interrupted_in_one)


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """What each of two gloo processes has to say, by the name of the work."""
    folder = tmp_path_factory.mktemp("group")
    alone = audit(Team(), partial=folder / "begun")
    rows = folder / "begun" / ROWS
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:4]))
    in_two_processes(_joined, folder, seconds=SECONDS)
    said = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]
    return content(alone), said


def _joined(rank, folder):
    torch.set_num_threads(1)
    certifying.FLOATS_AT_ONCE = 12 * PIXELS[0].numel()
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    team = FabricTeam(SimpleNamespace(global_rank=rank, world_size=2, device=torch.device("cpu")))
    said = {work.__name__: work(team, Path(folder)) for work in WORK}
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(said))
    dist.destroy_process_group()


def test_two_processes_give_the_rows_of_one(of_processes):
    alone, said = of_processes
    for of_one in said:
        assert of_one["same_rows"] == alone


def test_two_processes_go_on_where_one_was(of_processes):
    alone, said = of_processes
    for of_one in said:
        assert of_one["goes_on"] == alone


def test_what_one_process_refuses_is_refused_by_both(of_processes):
    assert [of_one["refused_by_one"] for of_one in of_processes[1]] == ["expected labels from 0 to 3, got 0 to 9"] * 2


def test_a_bug_in_one_process_is_shown_by_both(of_processes):
    for of_one in of_processes[1]:
        assert "in process 1:" in of_one["bug_in_one"]
        assert "KeyError: 'missing'" in of_one["bug_in_one"]


def test_a_full_disk_stops_both_processes(of_processes):
    assert of_processes[1][0]["disk_of_one"] == 9


def test_ctrl_c_stops_both_processes_after_the_turn(of_processes):
    assert of_processes[1][0]["interrupted_in_one"] == 23
    assert of_processes[1][1]["interrupted_in_one"] == 23


def test_one_process_on_the_cpu_needs_no_launching():
    with launched_team() as team:
        assert (team.rank, team.size, team.device, team.leads) == (0, 1, torch.device("cpu"), True)
    assert not dist.is_initialized()


@pytest.mark.parametrize(("devices", "accelerator"), [(2, "abacus"), (1, "abacus")])
def test_devices_that_there_are_not_are_refused(devices, accelerator):
    with pytest.raises(InputError, match="abacus"), launched_team(devices=devices, accelerator=accelerator):
        pytest.fail("launched")
