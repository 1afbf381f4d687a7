"""Figures stay light and put no sample where it is not."""

import re

import numpy as np
import pytest
from report_cases import realistic_result

from lipcert.harness.result import SampleRow
from lipcert.report import cloud, svg
from lipcert.report.figures import accuracy_figure, distance_figure
from lipcert.report.figures_ratios import bar_edges, last_drawn, tightness_figure

LIGHT = 150_000
"""Characters of a figure, however many samples it shows."""


def many(count, *, low=1.0, high=1.5, violated=False):
    random = np.random.default_rng(0)
    radii, factors = random.gamma(3, 0.3, count), random.uniform(low, high, count)
    return [
        SampleRow(index, 0, 0, radius, radius * factor, "walk", attacked=True, violated=violated)
        for index, (radius, factor) in enumerate(zip(radii.tolist(), factors.tolist(), strict=True))
    ]


@pytest.mark.parametrize("violated", [False, True])
def test_ten_thousand_samples_weigh_no_more_than_a_thousand(violated):
    low, high = (0.7, 0.99) if violated else (1.0, 1.5)
    rows = many(10_000, low=low, high=high, violated=violated)
    for figure in (distance_figure(rows), accuracy_figure(rows, (0.5,)), tightness_figure(rows)):
        assert len(figure) < LIGHT
    assert len(distance_figure(rows[: cloud.MAX_MARKS])) < LIGHT


def cells(rows, *, above):
    """Axes with the samples drawn into them."""
    with svg.report_style():
        figure = svg.new_figure(4, 3)
        axes = figure.add_subplot(xlim=(0, 4), ylim=(0, 4))
        look = cloud.STOOD if above else cloud.REFUTED
        cloud.draw(axes, np.array([(row.radius, row.distance) for row in rows]), look, above_diagonal=above)
        return axes


def test_every_sample_lies_in_a_drawn_cell_of_its_count():
    rows = [row for row in many(3000) if max(row.radius, row.distance) < 4]
    axes = cells(rows, above=True)
    drawn = np.concatenate([patch.get_path().vertices.reshape(-1, 5, 2) for patch in axes.patches])
    low, high = drawn.min(axis=1), drawn.max(axis=1)
    points = np.array([(row.radius, row.distance) for row in rows])
    inside = ((points[:, None] >= low) & (points[:, None] <= high)).all(axis=2)
    assert inside.any(axis=1).all()  # no sample is lost
    assert inside.any(axis=0).all()  # no cell is empty
    assert [patch.get_alpha() for patch in axes.patches] == sorted({patch.get_alpha() for patch in axes.patches})


@pytest.mark.parametrize("above", [True, False])
def test_cells_on_the_diagonal_are_cut_to_the_side_of_their_samples(above):
    low, high = (1.0, 1.2) if above else (0.7, 0.99)
    axes = cells([row for row in many(3000, low=low, high=high) if row.radius < 3], above=above)
    data = axes.transData.inverted()
    for patch in axes.patches:
        path, transform = patch.get_transformed_clip_path_and_affine()
        corners = data.transform(transform.transform(path.vertices))
        assert ((corners[:, 1] >= corners[:, 0] - 1e-9) == above)[corners[:, 0] != corners[:, 1]].all()


@pytest.mark.parametrize("most", [1, 2, 5, 17, 1000])
def test_levels_cover_every_count_once(most):
    held = [count for low, high in cloud.levels(most) for count in range(low, high + 1)]
    assert held == list(range(1, most + 1))
    assert len(cloud.levels(most)) <= len(cloud.OPACITIES)


@pytest.mark.parametrize("ratios", [[1.0], [1.0, 1.3, 2.7], [0.999, 1.0], [0.0, 1.2], [0.2, 0.9], [1.5] * 50 + [1e4]])
def test_no_bar_holds_ratios_of_refuted_and_of_standing_certificates(ratios):
    edges = bar_edges(np.array(ratios))
    assert (np.diff(edges) > 0).all()
    assert 1.0 in edges
    assert edges[-1] <= max(last_drawn(np.array(ratios)), 1.5)
    counts, _ = np.histogram(np.clip(ratios, edges[0], edges[-1]), bins=edges)
    assert counts.sum() == len(ratios)
    assert counts[edges[:-1] < 1].sum() == sum(ratio < 1 for ratio in ratios)


def test_refuted_bars_are_hatched_and_not_only_coloured():
    assert "<pattern" in tightness_figure([SampleRow(0, 0, 0, 1.0, 0.9, attacked=True), *many(20)])
    assert "<pattern" not in tightness_figure(many(20))


def test_curves_differ_in_more_than_colour():
    figure = accuracy_figure(realistic_result(np.zeros((12, 1, 2, 2), np.float32), np.arange(100) % 10).rows, (0.5,))
    dashes = set(re.findall(r"stroke-dasharray: ([\d., ]+)", figure))
    assert len(dashes) == 2  # dashed and dotted, beside the solid one
