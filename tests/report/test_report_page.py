"""report.html: self-contained, escaped, deterministic, and it says what was measured."""

import base64
import functools
import hashlib
import re
import subprocess
import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from read_page import Page
from report_cases import HOSTILE, hostile_result, realistic_result, refuted_result, tiny_result, uncertified_result

from lipcert.harness.result import GalleryItem, SampleRow
from lipcert.report import render_html


def nothing_attacked():
    rows = tuple(SampleRow(row.index, row.label, row.prediction, row.radius) for row in tiny_result().rows)
    return tiny_result(rows=rows, attacks=(), gallery=())


def colour_images():
    image = np.full((3, 64, 48), 0.5, np.float32)
    return tiny_result(gallery=(GalleryItem(0, 0, 9, 0.5, 1.0, "walk", image, image.copy()),))


def unbounded():
    return tiny_result(rows=(*tiny_result().rows, SampleRow(5, 0, 0, float("inf"))))


def one_hundred_classes():
    rows = tuple(SampleRow(index, index, index, index / 10) for index in range(100))
    return tiny_result(rows=rows, gallery=(), class_names=tuple(f"class {index}" for index in range(100)))


def many_refuted():
    """More refuted samples than a page has marks or rows for."""
    rows = [SampleRow(i, 0, 0, 1.0, 0.5 + i / 4000, "walk", attacked=True, violated=True) for i in range(1500)]
    return tiny_result(rows=tuple(rows))


CASES = [
    tiny_result,
    refuted_result,
    uncertified_result,
    nothing_attacked,
    colour_images,
    hostile_result,
    unbounded,
    one_hundred_classes,
    many_refuted,
]


@functools.cache
def html_of(case):
    """The page of a case, rendered once."""
    return render_html(case())


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_refers_to_nothing_outside(case):
    html = html_of(case)
    page = Page(html)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = attributes.get(name, "#")
            assert target.startswith("data:image/png;base64,") or target.startswith("#"), (tag, name)
            assert not target.startswith("#") or target == "#" or target[1:] in identifiers
        assert not [name for name in attributes if name.startswith("on")]
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.startswith("#")
        assert target[1:] in identifiers
    assert "@import" not in html


@pytest.mark.parametrize("case", CASES)
def test_the_one_script_is_the_one_that_the_policy_allows(case):
    html = html_of(case)
    page = Page(html)
    [script] = page.scripts
    assert html.count("<script") == 1
    [policy] = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        *("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src 'sha256-{digest}'")
    ]


def test_without_its_script_a_page_has_no_control_that_does_nothing():
    tags = [tag for tag, _ in Page(html_of(tiny_result)).tags]
    assert not {"button", "input", "select", "form", "details"} & set(tags)


@pytest.mark.parametrize("case", CASES)
def test_every_table_has_a_heading_for_each_column(case):
    html = html_of(case)
    tables = re.findall(r"<table.*?</table>", html, flags=re.DOTALL)
    assert len(tables) >= 3
    for table in tables:
        widths = {
            len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", table.partition("<tfoot")[0])
        }
        assert len(widths) == 1
        assert all('scope="' in heading for heading in re.findall(r"<th[ >][^>]*>", table))
        assert ("sortable" in table) == ("<thead" in table)


@pytest.mark.parametrize("case", CASES)
def test_the_contents_lead_to_every_section(case):
    page = Page(html_of(case))
    headings = [attributes["id"] for tag, attributes in page.tags if tag in {"h2", "h3"} and "id" in attributes]
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    assert set(headings) == set(links)


def test_page_of_harmless_names_contains_no_address_at_all():
    assert not re.search(r"https?:|(?:src|href)\s*=\s*[\"']?//", html_of(refuted_result))


def test_every_image_and_figure_has_a_text_alternative():
    page = Page(html_of(tiny_result))
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(images) == 4  # the colour scale and three of the gallery
    assert len(figures) == 6  # distance, tightness, accuracy, power, classes, and what they turn into
    assert all(images + figures)


def test_hostile_text_is_shown_and_not_run():
    html = html_of(hostile_result)
    page = Page(html)
    assert HOSTILE not in html
    shown = " ".join(HOSTILE.split())
    for sentence in (f"on {shown}, {shown} split", f"“{shown}” margin rule", f"Arithmetic: {shown}."):
        assert sentence in page.text


@pytest.mark.parametrize("name", ["$5$", "id=#010203", "<b>&amp;", "\u732b", "a_b^c"])
def test_a_figure_shows_class_names_as_they_are(name):
    assert name in Page(render_html(tiny_result(class_names=(name, "dog", "emu")))).figure_words


def sections(html):
    """Headings of the page, in their order."""
    return re.findall(r"<(h[23])[^>]*>(.*?)</", html)


def test_pass_says_so_first():
    html = html_of(tiny_result)
    page = Page(html)
    body = page.text[page.text.index("Certificate audit tiny") :]
    assert body.index("✓ PASS") < body.index("Strength of the attacks") < body.index("Clean accuracy")
    assert body.index("Clean accuracy") < body.index("What was proved")
    order = [text for tag, text in sections(html) if tag == "h2"]
    assert order == [
        *("What was proved", "Accuracy at every budget", "Certificate against attack", "How strong the audit was"),
        *("Class by class", "Attacks and what they cost", "Adversarial examples", "How to reproduce it"),
    ]
    assert "FAIL" not in page.text
    assert "REFUTED" not in page.text
    assert "3 of 5 certificates were attacked" in body


def test_fail_shows_the_refuted_certificate_on_top():
    page = Page(html_of(refuted_result))
    body = page.text[page.text.index("Certificate audit tiny") :]
    assert "✗ FAIL 1 of 4 attacked certificates was refuted" in body
    assert "PASS" not in page.text
    top = body[body.index("Refuted certificates") : body.index("Clean accuracy")]
    assert "3 dog (taken for cat) emu 2.00000 1.50000 0.750000 walk" in top
    assert "What was proved" not in body
    assert "adversarial.safetensors" in top


def test_without_attacks_the_pass_is_called_untested():
    page = Page(html_of(nothing_attacked))
    assert "✓ PASS, untested No attack was run" in page.text
    assert "Certificate against attack" not in page.text
    assert "under attack" not in page.text.lower()
    assert "Strength of the attacks" not in page.text
    assert "Turns into" not in page.text


def test_a_subset_of_attacked_samples_is_said_beside_the_curve():
    assert "Only 3 of 5 samples were attacked" in Page(html_of(tiny_result)).text
    every = tuple(replace(row, attacked=True) for row in tiny_result().rows)
    assert "samples were attacked, so both" not in Page(render_html(tiny_result(rows=every))).text


def test_displayed_radii_are_rounded_down_and_distances_up():
    radius, distance = 0.123999, 0.1240001
    row = SampleRow(0, 0, 0, radius, distance=distance, attack="walk", attacked=True)
    [item] = tiny_result().gallery
    row = replace(row, adversarial_prediction=1)
    page = Page(render_html(tiny_result(rows=(row,), gallery=(replace(item, radius=radius, distance=distance),))))
    assert "0 cat dog 0.123 0.125 1.00 ✓ stood walk" in page.text
    assert "Certified radius 0.123 , found at 0.125" in page.text


def test_long_tables_and_galleries_are_cut_with_the_refuted_first():
    image = np.zeros((1, 2, 2), np.float32)
    rows = [SampleRow(i, 0, 0, 1.0, distance=2.0 + i, attack="walk", attacked=True) for i in range(200)]
    rows[150] = replace(rows[150], distance=0.5, violated=True)
    gallery = tuple(GalleryItem(row.index, 0, 1, 1.0, row.distance, "walk", image, image) for row in rows)
    page = Page(render_html(tiny_result(rows=tuple(rows), gallery=gallery)))
    assert "The 20 of 200 attacked samples with the smallest ratio" in page.text
    assert "24 of 200 are shown" in page.text
    assert page.text.index("150 · cat → dog ✗ REFUTED") < page.text.index("0 · cat → dog")


@pytest.mark.parametrize("case", [refuted_result, colour_images])
def test_same_result_gives_the_same_page(case):
    assert render_html(case()) == html_of(case)


def test_users_matplotlib_settings_are_neither_used_nor_changed():
    plain = html_of(tiny_result)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert render_html(tiny_result()) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_page_is_the_same_in_another_process():
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]);"
        "from report_cases import tiny_result; from lipcert.report import render_html;"
        "print(hashlib.sha256(render_html(tiny_result()).encode()).hexdigest())"
    )
    folder = sys.modules["report_cases"].__file__.rpartition("/")[0]
    here = hashlib.sha256(html_of(tiny_result).encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize(("samples", "attacked"), [(1000, 10), (10_000, 10_000)])
def test_realistic_page_stays_small(samples, attacked):
    images = np.random.default_rng(0).random((12, 1, 28, 28)).astype(np.float32)
    result = realistic_result(images, np.arange(samples) % 10, attacked=attacked, ratio=(1.0, 2.0))
    assert len(render_html(result)) < 500_000


def test_strength_is_said_with_the_verdict_and_explained():
    weak = Page(html_of(tiny_result)).text
    assert "Strength of the attacks: weak . Radii 1.3 times as large would have passed unnoticed." in weak
    assert "The smallest factor that is noticed at all is 2.00; 4.00 refutes half of the certificates." in weak
    rows = [SampleRow(i, 0, 0, 1.0, 1.1 + i / 2, "walk", attacked=True, adversarial_prediction=1) for i in range(4)]
    text = Page(render_html(tiny_result(rows=tuple(rows)))).text
    assert "Strength of the attacks: moderate . Had all radii been 1.5 times as large, 25.0 % of the attacked" in text
    assert "1.3 25.0 % 1.5 25.0 % 2 50.0 % 3 100 %" in text


def test_classes_say_what_they_turn_into():
    text = Page(html_of(tiny_result)).text
    assert "cat 2 100 % 0.250 0 1 1.00 2.00 dog 100 %" in text
    assert "dog 2 50.0 % 0.125 0 1 1.00 4.00 emu 100 %" in text
    assert (
        "Most fragile: dog (average radius 0.125, mostly into emu); cat (average radius 0.250, mostly into dog)" in text
    )


def test_attacks_are_ranked_by_how_often_they_were_nearest_with_the_sum_of_their_costs():
    first, second = tiny_result().attacks
    text = Page(render_html(tiny_result(attacks=(first, replace(second, won=2))))).text
    league = text[text.index("Attacks and what they cost Attack") :]
    assert league.index("walk 2 3 33.3 % 1.00 0 0.500 60 0") < league.index("gradient 1 3 33.3 % 1.00 0 1.50 120 120")
    assert "All 2 3 2.00 180 120" in league


def test_a_network_without_certificates_is_audited_empirically_only():
    html = render_html(uncertified_result(reason="Nothing is certified: layer '2' has no bound."))
    page = Page(html)
    body = page.text[page.text.index("Empirical audit tiny") :]
    assert "Empirical audit only Nothing was certified" in body
    assert "Attacks found adversarial examples for 2 of 3 attacked samples" in body
    assert "layer '2' has no bound." in body
    for word in ("PASS", "FAIL", "radius", "Radius", "ertified accuracy", "Lipschitz", "inflat", "Strength", "\u221e"):
        assert word not in body, word
    assert [text for tag, text in sections(html) if tag == "h2"] == [
        *("Accuracy at every budget", "Nearest adversarial examples", "Class by class", "Attacks and what they cost"),
        *("Adversarial examples", "How to reproduce it"),
    ]
    assert "0 cat dog 1.00 gradient" in body


def test_of_a_failed_audit_the_band_is_not_said_to_hold_the_truth():
    words = " ".join(Page(html_of(refuted_result)).words)
    assert "the truth lies" not in words
    assert "the truth need not lie between the two" in " ".join(words.split())
    assert "the truth lies in this band" in " ".join(Page(html_of(tiny_result)).words)


@pytest.mark.parametrize(("norm", "name"), [("l2", "L2"), ("linf", "L\u221e"), ("l1", "L1")])
def test_the_norm_is_named_throughout(norm, name):
    page = Page(render_html(tiny_result(norm=norm)))
    assert f"Radii and distances are {name}," in page.text
    assert f"epsilon ({name})" in page.figure_words
    assert f"distance found by attack ({name})" in page.figure_words
    assert {"L1", "L2", "L\u221e"} & {word.strip("(),'s") for word in page.text.split()} == {name}
