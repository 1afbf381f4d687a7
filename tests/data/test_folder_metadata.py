import io
import json
import zipfile

import pytest
from PIL import Image

from lipcert.data import ImageFolder
from lipcert.errors import InputError


def picture(grey):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "PNG")
    return buffer.getvalue()


def csv_table(labels):
    return "file_name,label,note\n" + "".join(f'{name},{label},"a, b"\n' for name, label in labels.items())


def jsonl_table(labels):
    return "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in labels.items()) + "\n\n"


LABELS = {f"{number}.png": ("10", "2")[number % 2] for number in range(6)}
PICTURES = {name: picture(40 * number) for number, name in enumerate(LABELS)}


def written(folder, files, *, zipped=False):
    if zipped:
        with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return folder / "pets.zip"
    for name, content in files.items():
        path = folder / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "pets"


def parts(**tables):
    return {
        f"{part}/{name}": content
        for part, table in tables.items()
        for name, content in {**{f"images/{each}": picture for each, picture in PICTURES.items()}, **table}.items()
    }


def beneath(labels):
    return {f"images/{name}": label for name, label in labels.items()}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("file", "table"), [("metadata.csv", csv_table), ("metadata.jsonl", jsonl_table)])
def test_labels_are_read_from_tables(tmp_path, zipped, file, table):
    content = {file: table(beneath(LABELS))}
    path = written(tmp_path, parts(train=content, validation=content, test=content), zipped=zipped)
    data = ImageFolder(path, grayscale=True)
    assert data.class_names == ("2", "10")
    for part in ("train", "val", "test"):
        images = data.split(part)
        found = dict(zip(images.images[:, 0, 0, 0].tolist(), images.labels.tolist(), strict=True))
        assert found == {0: 1, 40: 0, 80: 1, 120: 0, 160: 1, 200: 0}


def test_one_table_is_split(tmp_path):
    labels = {name: "even" if number % 2 == 0 else "odd" for number, name in enumerate(LABELS)}
    data = ImageFolder(written(tmp_path, {**PICTURES, "metadata.csv": csv_table(labels)}), test_size=2, val_size=0)
    greys = {
        int(image[0, 0, 0]): int(label)
        for part in ("train", "test")
        for image, label in zip(data.split(part).images, data.split(part).labels, strict=True)
    }
    assert greys == {0: 0, 40: 1, 80: 0, 120: 1, 160: 0, 200: 1}
    assert data.class_names == ("even", "odd")


def test_tables_without_labels_leave_the_class_folders(tmp_path):
    files = {f"{label}/{name}": content for label in ("a", "b") for name, content in PICTURES.items()}
    data = ImageFolder(written(tmp_path, {**files, "metadata.csv": "file_name,caption\na/0.png,hello\n"}))
    assert data.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,label\n7.png,a\n", "got 7.png in row 1 of metadata.csv"),
        ("file_name,label\n../0.png,a\n", r"got ../0.png in row 1"),
        ("file_name,label\n0.png,a\n./0.png,b\n", "every file once, got 0.png again in row 2"),
        ("name,label\n0.png,a\n", "got None in row 1"),
        ('file_name,label\n"0.png,a\n', "a table of files and labels in metadata.csv"),
        (b"file_name,label\n\xff\xfe,a\n", "a table of files and labels"),
    ],
)
def test_unusable_tables_are_refused_in_one_line(tmp_path, table, message):
    with pytest.raises(InputError, match=message) as refused:
        ImageFolder(written(tmp_path, {**PICTURES, "metadata.csv": table})).split("test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000])
def test_lines_that_are_no_objects_are_refused(tmp_path, line):
    with pytest.raises(InputError, match=r"a table of files and labels in metadata\.jsonl"):
        ImageFolder(written(tmp_path, {**PICTURES, "metadata.jsonl": line})).split("test")


def test_tables_inside_and_outside_of_parts_are_refused(tmp_path):
    files = {**PICTURES, "metadata.csv": csv_table(LABELS), **parts(train={"metadata.csv": csv_table(beneath(LABELS))})}
    with pytest.raises(InputError, match="expected all images in folders train"):
        ImageFolder(written(tmp_path, files)).split("test")
