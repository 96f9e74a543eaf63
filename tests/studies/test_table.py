from io import BytesIO

from PIL import Image
from test_comparison import make

from vitlora.studies.chart import _apart, chart
from vitlora.studies.comparison import Failure, compare
from vitlora.studies.table import to_markdown


def cells(text: str) -> list[list[str]]:
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1  # it reads well on a screen, too
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_has_a_line_for_each_method_and_no_empty_columns() -> None:
    rows = compare([make("lora", range(10)), make("linear", range(50), trainable=77)])
    head, rule, lora, linear, full = cells(to_markdown(rows, [Failure("full", 0, "no memory")]))
    assert set("".join(rule)) == {"-"}
    assert "GPU memory" not in head and "seeds" not in head
    shown = dict(zip(head, linear, strict=True))
    assert shown["accuracy (95%)"] == "0.500 (0.404 to 0.596)"  # the textbooks' 50 of 100
    assert shown["trained"] == "77" and shown["p"] == "<0.001" and shown["RAM"] == "1 GB"
    assert lora[head.index("p")] == "best"
    assert full[0] == "full" and "failed" in full and set(full[1:]) == {"failed", "-"}


def test_several_seeds_show_their_range() -> None:
    rows = compare([make("lora", range(10)), make("lora", range(20), seed=1)])
    assert "0.800 to 0.900" in to_markdown(rows, [])


def test_chart_is_a_picture_also_of_one_method_and_of_equal_costs() -> None:
    for runs in (
        [make("a", [])],
        [make("a", []), make("b", range(3)), make("b", [], seed=1)],
        [make(f"{m}@{'x' * 40}", []) for m in "abc"],
    ):
        picture = Image.open(BytesIO(chart(compare(runs), "title")))
        assert picture.size == (1170, 585)


def test_points_that_would_hide_one_another_stand_apart() -> None:
    places = _apart([300, 1, 300, 301])
    assert places[:2] == [300, 1]
    assert places[0] < places[2] < places[3] < 500
