"""report.html: self-contained, escaped, deterministic, and it says what was measured."""

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from report_cases import realistic_result, refuted_result, tiny_result

from lipcert.certificates import LayerBound
from lipcert.harness.result import AttackRow, GalleryItem, SampleRow
from lipcert.report import render_html

VOID = {"meta", "img", "br"}
HOSTILE = '<script>alert(\'x\')</script>" onload="y & http://evil.example/ $\\alpha$ id="a" \u4f60\u597d'


class Page(HTMLParser):
    """The page's tags with their attributes, its text, and whether every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.figure_words, self.open = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "svg" in self.open:
            self.figure_words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def nothing_attacked():
    rows = tuple(SampleRow(row.index, row.label, row.prediction, row.radius) for row in tiny_result().rows)
    return tiny_result(rows=rows, attacks=(), gallery=())


def colour_images():
    image = np.full((3, 64, 48), 0.5, np.float32)
    return tiny_result(gallery=(GalleryItem(0, 0, 9, 0.5, 1.0, "walk", image, image.copy()),))


def hostile():
    subject = ("created", "command", "model_name", "model_sha256", "data_name", "data_split", "data_sha256")
    item = tiny_result().gallery[0]
    return replace(
        refuted_result(),
        **dict.fromkeys(subject, HOSTILE),
        class_names=(HOSTILE, HOSTILE, HOSTILE),
        environment={HOSTILE: HOSTILE},
        layers=(LayerBound(HOSTILE, HOSTILE, 1.0, HOSTILE),),
        rule=HOSTILE,
        norm=HOSTILE,
        arithmetic=HOSTILE,
        assumptions=(HOSTILE,),
        warnings=(HOSTILE,),
        attacks=(AttackRow(HOSTILE, {HOSTILE: HOSTILE}, 1, 1.0, 1.0, 0, 1.0, 1, 1),),
        gallery=(replace(item, attack=HOSTILE),),
    )


def unbounded():
    return tiny_result(rows=(*tiny_result().rows, SampleRow(5, 0, 0, float("inf"))))


def one_hundred_classes():
    rows = tuple(SampleRow(index, index, index, index / 10) for index in range(100))
    return tiny_result(rows=rows, gallery=(), class_names=tuple(f"class {index}" for index in range(100)))


CASES = [tiny_result, refuted_result, nothing_attacked, colour_images, hostile, unbounded, one_hundred_classes]


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_refers_to_nothing_outside(case):
    html = render_html(case())
    page = Page(html)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = attributes.get(name, "#")
            assert target.startswith("data:image/png;base64,") or target.startswith("#"), (tag, name)
            assert not target.startswith("#") or target == "#" or target[1:] in identifiers
        assert not [name for name in attributes if name.startswith("on")]
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.startswith("#")
        assert target[1:] in identifiers
    assert "@import" not in html


def test_page_of_harmless_names_contains_no_address_at_all():
    assert not re.search(r"https?:|(?:src|href)\s*=\s*[\"']?//", render_html(refuted_result()))


def test_every_image_and_figure_has_a_text_alternative():
    page = Page(render_html(tiny_result()))
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(images) == 4  # the colour scale and three of the gallery
    assert len(figures) == 3
    assert all(images + figures)


def test_hostile_text_is_shown_and_not_run():
    html = render_html(hostile())
    assert "<script" not in html
    page = Page(html)
    shown = " ".join(HOSTILE.split())
    for sentence in (f"on {shown}, {shown} split", f"“{shown}” margin rule", f"Arithmetic: {shown}."):
        assert sentence in page.text


@pytest.mark.parametrize("name", ["$5$", "id=#010203", "<b>&amp;", "\u732b", "a_b^c"])
def test_a_figure_shows_class_names_as_they_are(name):
    assert name in Page(render_html(tiny_result(class_names=(name, "dog", "emu")))).figure_words


def test_pass_says_so_first():
    page = Page(render_html(tiny_result()))
    body = page.text[page.text.index("Certificate audit tiny") :]
    assert body.index("✓ PASS") < body.index("Clean accuracy") < body.index("What was proved")
    assert body.index("What was proved") < body.index("Certificate against attack") < body.index("How to reproduce")
    assert "FAIL" not in page.text
    assert "REFUTED" not in page.text
    assert "3 of 5 certificates were attacked" in body


def test_fail_shows_the_refuted_certificate_on_top():
    page = Page(render_html(refuted_result()))
    body = page.text[page.text.index("Certificate audit tiny") :]
    assert "✗ FAIL 1 of 4 attacked certificates was refuted" in body
    assert "PASS" not in page.text
    top = body[body.index("Refuted certificates") : body.index("Clean accuracy")]
    assert "3 dog (taken for cat) emu 2.00000 1.50000 0.750000 walk" in top
    assert "What was proved" not in body
    assert "adversarial.safetensors" in top


def test_without_attacks_the_pass_is_called_untested():
    page = Page(render_html(nothing_attacked()))
    assert "✓ PASS, untested No attack was run" in page.text
    assert "Certificate against attack" not in page.text
    assert "under attack" not in page.text.lower()


def test_a_subset_of_attacked_samples_is_said_beside_the_curve():
    assert "Only 3 of 5 samples were attacked" in Page(render_html(tiny_result())).text
    every = tuple(replace(row, attacked=True) for row in tiny_result().rows)
    assert "samples were attacked, so both" not in Page(render_html(tiny_result(rows=every))).text


def test_displayed_radii_are_rounded_down_and_distances_up():
    radius, distance = 0.123999, 0.1240001
    row = SampleRow(0, 0, 0, radius, distance=distance, attack="walk", attacked=True)
    [item] = tiny_result().gallery
    page = Page(render_html(tiny_result(rows=(row,), gallery=(replace(item, radius=radius, distance=distance),))))
    assert "0 cat dog 0.123 0.125 1.00 ✓ stood walk" in page.text
    assert "Certified radius 0.123 , found at 0.125" in page.text


def test_long_tables_and_galleries_are_cut_with_the_refuted_first():
    image = np.zeros((1, 2, 2), np.float32)
    rows = [SampleRow(i, 0, 0, 1.0, distance=2.0 + i, attack="walk", attacked=True) for i in range(200)]
    rows[150] = replace(rows[150], distance=0.5, violated=True)
    gallery = tuple(GalleryItem(row.index, 0, 1, 1.0, row.distance, "walk", image, image) for row in rows)
    page = Page(render_html(tiny_result(rows=tuple(rows), gallery=gallery)))
    assert "The 50 of 200 attacked samples with the smallest ratio" in page.text
    assert "24 of 200 are shown" in page.text
    assert page.text.index("150 · cat → dog ✗ REFUTED") < page.text.index("0 · cat → dog")


@pytest.mark.parametrize("case", [refuted_result, colour_images])
def test_same_result_gives_the_same_page(case):
    assert render_html(case()) == render_html(case())


def test_users_matplotlib_settings_are_neither_used_nor_changed():
    plain = render_html(tiny_result())
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
    here = hashlib.sha256(render_html(tiny_result()).encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True)
    assert there.stdout.strip() == here


def test_realistic_page_stays_small():
    result = realistic_result(np.zeros((10, 1, 28, 28), np.float32), np.arange(1000) % 10)
    assert len(render_html(result)) < 500_000
