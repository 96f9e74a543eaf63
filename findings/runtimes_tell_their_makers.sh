#!/usr/bin/env bash
# onnxruntime, OpenVINO: to open a session, or to import the package, reports to the maker.
#
# What the user does: installs a runtime from the package index, opens a model file on the CPU. No
#   option for it is set, no account or service is used.
# Expected: nothing but the answer.
# What happens: onnxruntime (1.31.1 as well as 1.32.0) makes an id of the device and a database of
#   events below ~/.cache/Microsoft as soon as a session opens, and looks up a name to upload them to.
#   `import openvino` alone does the same with ~/intel and Google Analytics, by the package
#   openvino_telemetry, which its wheel requires. Neither prints a word.
# Why it hurts: photos of patients or a plant without a way out: nobody expects a library for
#   inference to look up a name. In a container each start is a new device.
# How to avoid it: ORT_DISABLE_TELEMETRY=1 before the import of onnxruntime; for OpenVINO
#   sys.modules["openvino_telemetry"] = None before the import, or `opt_in_out --opt_out`.
# Upstream: both describe it in their privacy pages.
# Seen: 2026-11-29, Python 3.11, CPU. This script runs them without a network, where there is one to
#   leave out: what is checked is what they write.
# Printed:
#   onnxruntime 1.32.0 opens a model: deviceid onnxruntime.db
#   onnxruntime 1.32.0 with ORT_DISABLE_TELEMETRY=1: nothing
#   openvino 2026.4.1 is imported: openvino_ga_cid stats
#   openvino 2026.4.1 without openvino_telemetry: nothing
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'openvino==2026.4.1' \
  'openvino-telemetry==2025.2.0' 'numpy==2.4.6'
cd "$folder"
cat >model.py <<'PYTHON'
import onnx
from onnx import TensorProto, helper

x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y"))
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negation", [x], [y])
onnx.save(
    helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
    "model.onnx",
)
PYTHON
python3 model.py
cat >ort.py <<'PYTHON'
import numpy
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
assert session.run(None, {"x": numpy.ones(3, numpy.float32)})[0].tolist() == [-1, -1, -1]
PYTHON
status=0
# name, what is expected, command: runs it with an empty home, and without a network where possible
seen() {
  local name=$1 wanted=$2 home got
  shift 2
  home=$(mktemp -d -p "$folder")
  alone=()
  if unshare --net --map-root-user true 2>/dev/null; then alone=(unshare --net --map-root-user); fi
  env -u XDG_CACHE_HOME -u CI -u TF_BUILD -u JENKINS_URL HOME="$home" "${alone[@]}" "$@"
  got=$(find "$home" -type f ! -name '*-wal' ! -name '*-shm' ! -name '*-journal' -printf '%f\n' | sort | xargs)
  echo "$name: ${got:-nothing}"
  if [ "${got:-nothing}" != "$wanted" ]; then
    echo "changed: expected $wanted, got ${got:-nothing}"
    status=1
  fi
}
seen "onnxruntime 1.32.0 opens a model" "deviceid onnxruntime.db" python3 ort.py
seen "onnxruntime 1.32.0 with ORT_DISABLE_TELEMETRY=1" nothing env ORT_DISABLE_TELEMETRY=1 python3 ort.py
seen "openvino 2026.4.1 is imported" "openvino_ga_cid stats" python3 -c "import openvino"
seen "openvino 2026.4.1 without openvino_telemetry" nothing \
  python3 -c "import sys; sys.modules['openvino_telemetry'] = None; import openvino"
exit $status
