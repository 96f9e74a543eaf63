#!/usr/bin/env bash
# Label Studio: in JSON-MIN, a task that nobody has labelled has the label it was imported with.
#
# What the user does: imports a table with the columns image and label (a guess, last year's class),
#   in a project whose choices are called label, too; labels some; exports JSON-MIN.
# Expected: label is what annotators chose, and is missing where nobody chose anything. CSV does so:
#   it moves the imported field to _data_label.
# What happens: imported fields and answers share one flat record. An answer overwrites the field
#   of its name; where there is none, the imported value stays.
# Why it hurts: guesses look like labels. A task that an annotator submitted without a choice, as
#   none fits, has an annotator, a date and the very class that was turned down.
# How to avoid it: export JSON, which keeps data and annotations apart; or give the choices a name
#   that no imported field has.
# Upstream: HumanSignal/label-studio#3569 for the other half, answers that overwrite what was imported,
#   closed.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   label-studio-sdk 2.1.2 - image, label, annotator; 'bus' was imported, 'cat' chosen
#   JSON-MIN: [('chosen.jpg', 'cat', 1), ('nothing chosen.jpg', 'bus', 1), ('untouched.jpg', 'bus', None)]
#   CSV: [('chosen.jpg', 'cat', '1'), ('nothing chosen.jpg', '', '1'), ('untouched.jpg', '', '')]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'label-studio-sdk==2.1.2'
cd "$folder"
python3 - <<'PYTHON'
import csv
import json
import sys
from importlib.metadata import version
from pathlib import Path

from label_studio_sdk.converter import Converter

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image"><Choice value="cat"/><Choice value="bus"/></Choices>
</View>"""
CAT = {
    "from_name": "label",
    "to_name": "image",
    "type": "choices",
    "value": {"choices": ["cat"]},
}


def task(number, name, annotations):
    """Returns a task as Label Studio exports it to JSON; each annotation is a list of results."""
    return {
        "id": number,
        "data": {"image": f"{name}.jpg", "label": "bus"},
        "annotations": [
            {
                "id": number,
                "completed_by": 1,
                "created_at": "2026-11-01",
                "was_cancelled": False,
                "result": result,
            }
            for result in annotations
        ],
    }


tasks = [task(1, "chosen", [[CAT]]), task(2, "nothing chosen", [[]]), task(3, "untouched", [])]
Path("tasks.json").write_text(json.dumps(tasks))
converter = Converter(CONFIG, ".")
converter.convert_to_json_min("tasks.json", "min", is_dir=False)
converter.convert_to_csv("tasks.json", "csv", is_dir=False, sep=",")
keys = ("image", "label", "annotator")
small = [tuple(one.get(key) for key in keys) for one in json.loads(Path("min/result.json").read_text())]
with Path("csv/result.csv").open() as opened:
    table = [tuple(row[key] for key in keys) for row in csv.DictReader(opened)]
print("label-studio-sdk", version("label-studio-sdk"), end=" - ")
print("image, label, annotator; 'bus' was imported, 'cat' chosen")
print("JSON-MIN:", small)
print("CSV:", table)
expected = [["cat", "bus", "bus"], ["cat", "", ""]]
got = [[row[1] for row in rows] for rows in (small, table)]
if got != expected:
    sys.exit(f"changed: expected {expected}, got {got}")
PYTHON
