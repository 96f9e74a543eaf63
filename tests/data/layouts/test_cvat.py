"""CVAT's XML: tags, subsets, and what a stranger's XML may not do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from data.layouts.exported import labels, read, touch, zipped

from vitlora.errors import DataError

BOX = '<box label="dog" source="manual" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"/>'
TRACK = '<track id="0" label="dog" source="manual"><box frame="0" outside="0" xtl="1"/></track>'


def cvat(pictures: Mapping[str, Sequence[str]], subsets: Mapping[str, str] | None = None) -> str:
    """Returns the XML of a task, or of a project if pictures have subsets."""
    images: list[str] = []
    for number, (name, tags) in enumerate(pictures.items()):
        subset = f'subset="{subsets[name]}" task_id="1" ' if subsets else ""
        images.append(
            f'  <image id="{number}" name={quoteattr(name)} {subset}width="8" height="8">\n'
        )
        images += [f'    <tag label={quoteattr(t)} source="manual"/>\n' for t in tags]
        images.append("  </image>\n")
    names = "".join(
        f"<label><name>{name}</name><color>#c06060</color><type>any</type><attributes>"
        "<attribute><name>age</name><mutable>False</mutable></attribute></attributes></label>\n"
        for name in ("dog", "cat", "bus")
    )
    kind = "project" if subsets else "task"
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n<meta>'
        f"<{kind}><id>1</id><name>photos</name><labels>{names}</labels></{kind}>"
        f"<dumped>2026-11-01</dumped></meta>\n{''.join(images)}</annotations>\n"
    )


def test_a_task(tmp_path: Path) -> None:
    touch(tmp_path, ["images/1.jpg", "images/a b/2.jpg", "images/3.jpg"])
    text = cvat({"1.jpg": ["cat"], "a b/2.jpg": ["dog", "dog"], "3.jpg": []})
    (tmp_path / "annotations.xml").write_text(text)
    for root in (tmp_path, zipped(tmp_path)):
        reading = read(root, layout="cvat")
        assert labels(reading) == {"images/1.jpg": "cat", "images/a b/2.jpg": "dog"}
        assert reading.classes == ("dog", "cat", "bus")  # in the project's order
        assert reading.notes == (f"1 picture in {root} not used: no class in annotations.xml",)


def test_a_project_has_subsets(tmp_path: Path) -> None:
    # the pictures of each subset lie in a folder of its name, and may be called alike
    text = cvat({"1.jpg": ["cat"], "2.jpg": ["dog"], "3.jpg": ["cat"]})
    for number, subset in enumerate(("Train", "Validation", "Train"), 1):
        touch(tmp_path, [f"images/{subset}/1.jpg", f"images/{subset}/{number}.jpg"])
        image = f'id="{number - 1}" name="{number}.jpg" '
        text = text.replace(image, f'{image}subset="{subset}" task_id="1" ')
    (tmp_path / "annotations.xml").write_text(text.replace("2.jpg", "1.jpg"))
    assert labels(read(tmp_path, layout="cvat")) == {
        "images/Train/1.jpg": "train cat",
        "images/Validation/1.jpg": "val dog",
        "images/Train/3.jpg": "train cat",
    }


@pytest.mark.parametrize(
    ("subsets", "found"),
    [
        (("default", "default"), ["cat", "dog"]),
        (("Train", "default"), "1 row without a split, where others have one: image 1;"),
        (("Train", "part 2"), r"1 row with an unknown split: image 1 \('part 2'\); expected train"),
    ],
)
def test_other_subsets(tmp_path: Path, subsets: Sequence[str], found: list[str] | str) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    names = {"1.jpg": subsets[0], "2.jpg": subsets[1]}
    (tmp_path / "x.xml").write_text(cvat({"1.jpg": ["cat"], "2.jpg": ["dog"]}, names))
    if isinstance(found, list):
        assert [*labels(read(tmp_path)).values()] == found
    else:
        with pytest.raises(DataError, match=found):
            read(tmp_path)


def test_a_file_for_each_subset(tmp_path: Path) -> None:
    for split in ("train", "val"):
        touch(tmp_path, [f"images/{split}/1.jpg", f"images/{split}/2.jpg"])
        (tmp_path / f"{split}.xml").write_text(cvat({"1.jpg": ["cat"], "2.jpg": ["dog"]}))
    assert labels(read(tmp_path, layout="cvat"))["images/val/2.jpg"] == "val dog"


def test_frames_have_no_ending(tmp_path: Path) -> None:
    touch(tmp_path, ["images/frame_000000.PNG", "images/frame_000001.PNG"])
    text = cvat({"frame_000000": ["cat"], "frame_000001": ["dog"]})
    (tmp_path / "annotations.xml").write_text(text)
    assert labels(read(tmp_path, layout="cvat"))["images/frame_000001.PNG"] == "dog"


@pytest.mark.parametrize("shape", [BOX, TRACK])
def test_boxes_and_tracks_are_no_classes(tmp_path: Path, shape: str) -> None:
    touch(tmp_path, ["1.jpg"])
    text = cvat({"1.jpg": []})
    where = "  </image>" if shape == BOX else "</annotations>"
    (tmp_path / "x.xml").write_text(text.replace(where, shape + where))
    with pytest.raises(DataError, match="1 shape, but no image has a tag"):
        read(tmp_path)


def test_a_tag_inside_a_track_or_meta_is_none_of_an_image(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    text = cvat({"1.jpg": ["cat"]}).replace("<meta>", '<meta><tag label="dog"/>')
    text = text.replace("</annotations>", '<track><tag label="dog"/></track></annotations>')
    (tmp_path / "x.xml").write_text(text)
    assert labels(read(tmp_path)) == {"1.jpg": "cat"}


def test_two_tags_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    (tmp_path / "x.xml").write_text(cvat({"1.jpg": ["cat", "dog"]}))
    with pytest.raises(DataError, match=r"x.xml: .* several classes: image 0 \('cat, dog'\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE a [<!ENTITY e "eeeeeeeeee"><!ENTITY f "&e;&e;&e;">]>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd">',
    ],
)
def test_a_doctype_is_refused(tmp_path: Path, doctype: str) -> None:
    touch(tmp_path, ["1.jpg"])
    text = cvat({"1.jpg": ["cat"]}).replace("<annotations>", f"{doctype}\n<annotations>")
    (tmp_path / "x.xml").write_text(text.replace("photos", "&e;"))
    with pytest.raises(DataError, match="line 2: a DOCTYPE, which CVAT does not write"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("</annotations>", ""), "x.xml: not XML .no element found: line"),
        (("utf-8", "no-such-code"), "x.xml: not XML"),
        (('name="1.jpg"', ""), "image 0: it has no name"),
        (("photos", "&e;"), "x.xml: not XML .undefined entity"),
        (("photos", "<a>" * 100_000), "x.xml: not XML"),
    ],
)
def test_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    touch(tmp_path, ["1.jpg"])
    (tmp_path / "x.xml").write_text(cvat({"1.jpg": ["cat"]}).replace(*change))
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_other_xml_is_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    (tmp_path / "x.xml").write_text("<annotation><object/></annotation>")  # Pascal VOC
    with pytest.raises(DataError, match=re.escape("no .xml that begins with <annotations>")):
        read(tmp_path, layout="cvat")


def test_its_imagenet_export_is_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"])
    reading = read(zipped(tmp_path))
    assert reading.layout == "folders"
    assert labels(reading) == {"cat/1.jpg": "cat", "cat/2.jpg": "cat", "dog/3.jpg": "dog"}
