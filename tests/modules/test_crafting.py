"""What a search may do to the network that is being trained: nothing."""

import copy

import pytest
import torch
from torch import nn

from lipcert.attacks import Attack, DecoupledDirection, FastGradient, LossAscent, ProjectedGradient, Task
from lipcert.attacks.evaluation import forward
from lipcert.modules.crafting import craft, searchable, untracked


def normalised(seed=0):
    """A network with everything that has two modes, a layer that the user has frozen, and gradients from before."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3)
    )
    for _ in range(3):
        network(torch.rand(8, 1, 8, 8) * 2)
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    return network


BATCH = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
LINF = {"norm": "linf", "epsilon": 0.1}


def state(network):
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = {name: None if item.grad is None else item.grad.clone() for name, item in network.named_parameters()}
    asked = {name: item.requires_grad for name, item in network.named_parameters()}
    modes = {name: module.training for name, module in network.named_modules()}
    tracked = network[1].track_running_stats
    return tensors, gradients, asked, modes, tracked


def assert_same(before, after):
    for one, other in zip(before, after, strict=True):
        if not isinstance(one, dict):
            assert one == other
            continue
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
            assert same, name


class Backward(Attack):
    """Does what attack libraries do: a backward pass through everything, and an evaluation without gradients."""

    name, norms = "backward", ("linf",)

    def run(self, model, task):
        forward(model, task.inputs)
        leaf = task.inputs.requires_grad_()
        model(leaf).sum().backward()
        return (leaf + 0.1 * leaf.grad.sign()).clamp(0, 1)


ATTACKS = [
    LossAscent(3),
    LossAscent(2, loss="divergence"),
    ProjectedGradient(3, restarts=1),
    FastGradient(),
    DecoupledDirection(4),
    Backward(),
]


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_crafting_leaves_everything_as_it_was(attack, statistics):
    network = normalised()
    network[1].train()
    before = state(network)
    norm = {"norm": attack.norms[0], "epsilon": 0.1}
    found = craft(attack, network, *BATCH, **norm, statistics=statistics)
    assert_same(before, state(network))
    assert not found.requires_grad
    assert not BATCH[0].requires_grad


def test_a_failing_attack_leaves_everything_as_it_was():
    network = normalised()
    before = state(network)
    with pytest.raises(ZeroDivisionError), searchable(network, "batch"):
        raise ZeroDivisionError
    assert_same(before, state(network))


def test_a_network_that_crafts_in_training_mode_is_caught():
    """The mutant: without the guard, running statistics move and gradients arrive."""
    network = normalised().train()
    before = state(network)
    Backward().run(network, Task(*BATCH, norm="linf").copy())
    with pytest.raises(AssertionError):
        assert_same(before, state(network))


def seen_by_attack(network, statistics):
    """The logits that an attack is shown of the batch."""
    with searchable(network, statistics), torch.no_grad():
        return network(BATCH[0])


def test_which_statistics_normalise_while_crafting():
    network = normalised().train()
    deployed = copy.deepcopy(network).eval()
    assert torch.equal(seen_by_attack(network, "running"), deployed(BATCH[0]))
    deployed[1].train()  # the batch's own statistics, and no dropout
    expected = deployed(BATCH[0])
    assert torch.equal(seen_by_attack(network, "batch"), expected)
    assert not torch.allclose(expected, seen_by_attack(network, "running"), atol=1e-3)


def test_crafting_is_the_attack_itself():
    """What comes back is what the attack finds on a copy of the deployed network, without what calling it costs."""
    network = normalised()
    found = craft(LossAscent(4), network, *BATCH, **LINF, seed=5)
    outcome = LossAscent(4)(copy.deepcopy(network).eval(), *BATCH, **LINF, seed=5)
    torch.testing.assert_close(found, outcome.candidates, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_crafting_under_autocast_leaves_gradients_to_the_training_step(precision):
    """Casts of weights that an attack makes without gradients must not be what the training step is given."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.autocast("cpu", precision):
        craft(Backward(), network, *BATCH, norm="linf", epsilon=0.1)
        loss = network(BATCH[0]).float().square().sum()
    loss.backward()
    assert network[1].weight.grad.abs().sum() > 0


def test_untracked_statistics_normalise_by_the_batch():
    layer, batch = nn.BatchNorm1d(2), torch.rand(5, 2) + 3
    expected = copy.deepcopy(layer)(batch)
    with untracked(layer):
        assert torch.equal(layer(batch), expected)
    assert torch.equal(layer.running_mean, torch.zeros(2))
