import pytest
import torch
import zoo
from deel import torchlip
from reference import operator_norm
from torch import nn

from lipcert import InputError, export, lipschitz_lower_bound, lipschitz_upper_bound
from lipcert.networks import hkr_convnet


def points(shape, number=3):
    return torch.rand(number, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (5, 12), (12, 5)], ids=str)
def test_a_linear_map_gives_its_spectral_norm(rows, columns):
    network = nn.Sequential(nn.Linear(columns, rows)).eval()
    found = lipschitz_lower_bound(network, points((columns,)))
    assert found == pytest.approx(operator_norm(network[0].weight.detach()), rel=1e-3)


def test_a_convolution_gives_the_norm_of_its_dense_matrix():
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten()).eval()
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], torch.zeros(2, 6, 6))
    assert lipschitz_lower_bound(network, points((2, 6, 6))) == pytest.approx(
        operator_norm(jacobian.flatten(1)), rel=1e-3
    )


def test_pairs_give_the_largest_difference_of_two_rows():
    network = nn.Sequential(nn.Linear(6, 3)).eval()
    weight = network[0].weight.detach().double()
    found = [lipschitz_lower_bound(network, points((6,)), pairs=[pair]) for pair in ((0, 1), (0, 2))]
    expected = [float((weight[0] - weight[other]).norm()) for other in (1, 2)]
    assert found == pytest.approx(expected, rel=1e-6)
    assert lipschitz_lower_bound(network, points((6,)), pairs=[(0, 1), (0, 2)]) == max(found)


def group_sort_network():
    layers = []
    for _ in range(3):
        layers += [torch.nn.utils.parametrizations.orthogonal(nn.Linear(16, 16)), torchlip.GroupSort2()]
    return nn.Sequential(*layers).eval()


def test_an_orthogonal_network_comes_near_its_bound():
    network = group_sort_network()
    found = lipschitz_lower_bound(network, points((16,)))
    assert 0.9 <= found <= lipschitz_upper_bound(network, (16,)).value


def test_search_finds_a_slope_that_no_starting_point_has():
    """Flat at every starting point, of slope 5 beyond 0.9: only ascent over a distance gets there."""
    network = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        network[0].bias.fill_(-4.5)
        network[2].weight.fill_(1.0)
    found = lipschitz_lower_bound(network, torch.tensor([[0.5, 0.5]]), seed=3)
    assert found == pytest.approx(5 * 2**0.5, rel=1e-3)


NETWORKS = [
    pytest.param(zoo.hooked, zoo.IMAGE, id="hooked"),
    pytest.param(zoo.hooked_before, zoo.IMAGE, id="hooked before"),
    pytest.param(zoo.loud_group, zoo.IMAGE, id="loud group"),
    pytest.param(zoo.stale_torchlip, zoo.IMAGE, id="stale torchlip"),
    pytest.param(zoo.weight_norm, zoo.IMAGE, id="weight norm"),
    pytest.param(zoo.parametrised_conv, zoo.IMAGE, id="parametrised"),
    pytest.param(zoo.batch_norm, zoo.IMAGE, id="batch norm"),
    pytest.param(lambda: zoo.Forward(zoo.channels_last, linear=nn.Linear(2, 3)), zoo.IMAGE, id="channels last"),
    pytest.param(zoo.tied, zoo.VECTOR, id="tied"),
    pytest.param(zoo.huge_biases, zoo.VECTOR, id="huge biases"),
    pytest.param(lambda: zoo.Forward(zoo.in_place_arithmetic), zoo.VECTOR, id="in place"),
    pytest.param(lambda: zoo.Forward(zoo.max_min), zoo.VECTOR, id="max min"),
    pytest.param(lambda: zoo.Forward(zoo.other_pairs), zoo.VECTOR, id="other pairs"),
    pytest.param(lambda: zoo.Forward(zoo.shifted_parts), zoo.VECTOR, id="shifted parts"),
    pytest.param(lambda: export(hkr_convnet((2, 6, 6), 3, channels=[4], hidden=6)), zoo.IMAGE, id="hkr"),
]


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_never_above_the_upper_bound(make, shape):
    torch.manual_seed(0)
    network = make().eval()
    found = lipschitz_lower_bound(network, points(shape), steps=20)
    assert 0 < found <= lipschitz_upper_bound(network, shape).value * (1 + 1e-7)  # float64 over distances of 2e-4


def test_a_pool_of_zeros_has_no_slope_that_is_not_a_number():
    network = nn.Sequential(nn.LPPool2d(2, 2), nn.Flatten()).eval()
    assert lipschitz_lower_bound(network, torch.zeros(1, 1, 4, 4)) == pytest.approx(1.0, rel=1e-6)


def test_one_seed_one_number_and_the_network_is_left_alone():
    network = export(hkr_convnet((1, 8, 8), channels=(2,), hidden=4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, second = (lipschitz_lower_bound(network, points((1, 8, 8)), steps=5, seed=7) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (torch.rand(2, 6), {"steps": 0}, "steps >= 1, got 0"),
        (torch.rand(0, 6), {}, "non-empty batch"),
        (torch.ones(2, 6, dtype=torch.int64), {}, "floating-point"),
        (torch.full((2, 6), 1.5), {}, r"in \[0, 1\]"),
        (torch.full((2, 6), torch.nan), {}, r"in \[0, 1\]"),
        (torch.rand(2, 6), {"pairs": [(0, 3)]}, r"3 classes, got \(0, 3\)"),
        (torch.rand(2, 6), {"pairs": []}, "at least one pair"),
    ],
    ids=str,
)
def test_unusable_input_is_one_line(inputs, settings, message):
    with pytest.raises(InputError, match=message):
        lipschitz_lower_bound(nn.Sequential(nn.Linear(6, 3)).eval(), inputs, **settings)


def test_train_mode_is_refused():
    with pytest.raises(InputError, match="eval mode"):
        lipschitz_lower_bound(nn.Linear(6, 3), torch.rand(2, 6))
