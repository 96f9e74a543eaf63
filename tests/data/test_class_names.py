"""Names of classes that look like a mistake."""

from __future__ import annotations

import pytest

from vitlora.data.class_names import doubts, plain

ALIKE = [
    ("Cat", "cat"),
    ("café", "cafe"),
    ("café", "cafe\u0301"),
    ("test tube", "Test_Tube"),
    ("test-tube", "testtube"),
    ("a - b", "a_b"),
    ("class 1", "class1"),
    ("1-1", "1 1"),
    ("ﬁr", "fir"),
    ("STRASSE", "straße"),
]
DIFFERENT = [
    ("-1", "1"),
    ("A-", "A"),
    ("1-1", "11"),
    ("C++", "C#"),
    ("C", "C++"),
    ("が", "か"),
    ("cat", "cats"),
    ("1.5", "15"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_spellings_of_one_class_are_alike(one, other):
    assert plain(one) == plain(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_classes_are_not(one, other):
    assert plain(one) != plain(other)


def test_names_are_told_with_their_counts():
    (doubt,) = doubts({"Cat": 12, "cat": 1, "dog": 3})
    assert doubt.kind == "alike_classes"
    assert doubt.what.endswith("accents: 'Cat' (12 pictures) and 'cat' (1 picture)")


@pytest.mark.parametrize("name", ["no_label", "_unlabeled", "Unlabelled", "None", "nan", "null"])
def test_marks_of_tools_for_no_label_are_doubted(name):
    (doubt,) = doubts({name: 2, "cat": 3})
    assert doubt.kind == "unlabelled_class" and f"'{name}' (2 pictures)" in doubt.what


def test_plain_names_are_not_doubted():
    assert not [*doubts({"cat": 1, "dog": 2, "nothing": 3, "0": 1, "label": 2})]
