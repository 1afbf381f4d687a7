from pathlib import Path

import pytest

from lipcert.data import lookup
from lipcert.data.lookup import Download, find
from lipcert.errors import InputError

LAYOUT = ("images", "labels")
DOWNLOADS = (
    Download("http://example.invalid/images.gz", "md5:0"),
    Download("http://example.invalid/labels.gz", "md5:1"),
)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The four places, by name; nothing outside the temporary folder can be reached."""
    monkeypatch.setenv("LIPCERT_DATA", str(tmp_path / "environment"))
    monkeypatch.setattr(lookup, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(lookup.pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(lookup.pooch, "retrieve", offline)
    return {
        "explicit": tmp_path / "explicit",
        "environment": tmp_path / "environment" / "tiny",
        "system": tmp_path / "system" / "tiny",
        "cache": tmp_path / "cache" / "lipcert" / "tiny",
    }


def offline(url, **_):
    raise ConnectionError(f"no route to\n{url}")


def fill(folder, files=LAYOUT):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).touch()


def test_places_are_tried_in_order(folders):
    for place in ("cache", "system", "environment"):
        fill(folders[place])
        assert find("tiny", [LAYOUT])[0].parent == folders[place]
    fill(folders["explicit"])
    assert find("tiny", [LAYOUT], folders["explicit"])[0].parent == folders["explicit"]


def test_an_explicit_folder_may_hold_the_named_folder(folders):
    fill(folders["explicit"] / "tiny")
    assert find("tiny", [LAYOUT], folders["explicit"])[1] == folders["explicit"] / "tiny" / "labels"


def test_plain_and_compressed_files_may_be_mixed(folders):
    fill(folders["system"], ["images.gz", "labels"])
    assert [path.name for path in find("tiny", [LAYOUT])] == ["images.gz", "labels"]


def test_a_folder_that_lacks_a_file_is_passed_over(folders):
    fill(folders["environment"], ["images"])
    fill(folders["cache"])
    assert find("tiny", [LAYOUT])[0].parent == folders["cache"]


def test_the_first_layout_wins(folders):
    fill(folders["system"], [*LAYOUT, "archive"])
    assert [path.name for path in find("tiny", [["archive"], LAYOUT])] == ["archive"]


def test_nothing_found_names_every_place_and_the_remedy_in_one_line(folders):
    with pytest.raises(InputError) as caught:
        find("tiny", [LAYOUT], downloads=DOWNLOADS)
    message = str(caught.value)
    for place in ("environment", "system", "cache"):
        assert str(folders[place]) in message
    assert "downloading http://example.invalid/images.gz failed (ConnectionError)" in message
    assert "LIPCERT_DATA" in message
    assert "\n" not in message


def test_a_wrong_explicit_folder_is_an_error_even_if_the_data_lie_elsewhere(folders):
    fill(folders["cache"])
    with pytest.raises(InputError, match=str(folders["explicit"])) as caught:
        find("tiny", [LAYOUT], folders["explicit"], downloads=DOWNLOADS)
    assert "example.invalid" not in str(caught.value)


def test_what_is_missing_is_downloaded_to_the_cache_and_then_found(folders, monkeypatch):
    def retrieve(url, *, known_hash, fname, path, downloader):
        assert known_hash == {"images.gz": "md5:0", "labels.gz": "md5:1"}[fname]
        fill(path, [fname])

    monkeypatch.setattr(lookup.pooch, "retrieve", retrieve)
    assert find("tiny", [LAYOUT], downloads=DOWNLOADS) == tuple(folders["cache"] / f"{file}.gz" for file in LAYOUT)


@pytest.mark.parametrize("failure", ["wrong checksum", "interrupted"])
def test_a_failed_download_leaves_no_file(folders, monkeypatch, failure):
    def deliver(url, output_file, _pooch):
        Path(output_file).write_bytes(b"half")
        if failure == "interrupted":
            raise ConnectionError("connection lost")

    monkeypatch.undo()
    monkeypatch.delenv("LIPCERT_DATA", raising=False)
    monkeypatch.setattr(lookup, "SYSTEM_FOLDER", folders["system"])
    monkeypatch.setattr(lookup.pooch, "os_cache", lambda _: folders["cache"].parent)
    monkeypatch.setattr(lookup.pooch, "HTTPDownloader", lambda **_: deliver)
    wrong = [Download("http://example.invalid/images.gz", "md5:" + "0" * 32)]
    with pytest.raises(InputError, match="ConnectionError" if failure == "interrupted" else "hash"):
        find("tiny", [["images"]], downloads=wrong)
    assert not list(folders["cache"].iterdir())
