#!/usr/bin/env bash
# jsonargparse: text such as 1e-3 comes back from its own config file as a number.
#
# What the user does: saves a run's configuration with parser.dump or parser.save and starts the
#   next run from it (as LightningCLI does); some text is 1e5, 1e-3 or 25921e05: a class's name, a
#   tag, the beginning of a commit's hash.
# Expected: what was saved.
# What happens: the dumper is YAML 1.1's, to which 1e5 is text that needs no quotes; the loader has
#   floats of its own, to which it is a number. In a dict it comes back as a float, in silence; as
#   an argument of type str the file is refused: "Expected a str. Got value: 100000.0".
# Why it hurts: keys and values no longer match ("1e5" != 100000.0), or a run's own file is invalid.
# How to avoid it: parser.dump(format="json"), which quotes all text; save and check.
# Upstream: yaml/pyyaml#860 and #886 for the missing quotes; none known for jsonargparse.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   jsonargparse 4.53.0
#   'cat': in a dict 'cat', as str 'cat'; by JSON 'cat'
#   '12': in a dict '12', as str '12'; by JSON '12'
#   '1e5': in a dict 100000.0, as str 'refused'; by JSON '1e5'
#   '1e-3': in a dict 0.001, as str 'refused'; by JSON '1e-3'
#   '25921e05': in a dict 2592100000.0, as str 'refused'; by JSON '25921e05'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'jsonargparse[signatures]==4.53.0' 'pyyaml==6.0.4'
cd "$folder"
python3 - <<'PYTHON'
import sys
from pathlib import Path

import jsonargparse

print("jsonargparse", jsonargparse.__version__)


def round_trip(kind, value, form="yaml"):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--names", type=kind)
    Path("run.yaml").write_text(parser.dump(jsonargparse.Namespace(names=value), format=form))
    try:
        return parser.parse_args(["--config", "run.yaml"]).names
    except jsonargparse.ArgumentError:
        return "refused"


TEXTS = ["cat", "12", "1e5", "1e-3", "25921e05"]
got = {}
for text in TEXTS:
    got[text] = round_trip(dict, {"a": text})["a"], round_trip(str, text)
    as_json = round_trip(dict, {"a": text}, "json")["a"]
    print(f"{text!r}: in a dict {got[text][0]!r}, as str {got[text][1]!r}; by JSON {as_json!r}")
expected = {text: (float(text), "refused") if "e" in text else (text, text) for text in TEXTS}
if got != expected:
    sys.exit(f"changed: expected {expected}, got {got}")
PYTHON
