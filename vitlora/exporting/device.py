"""Class and confidence of photos, by a file that `vitlora export` wrote: a script to change.

python device.py FILE.onnx PHOTO.jpg ...     pip install onnxruntime numpy pillow
For 8-bit photos in sRGB; `vitlora predict` also reads colour profiles and deeper files.
"""

import json
import os
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it tells Microsoft of each session
import onnxruntime


def square(image: Image.Image, view: dict[str, Any]) -> Image.Image:
    """Returns the part that the network sees, at the network's size."""
    size, (width, height), mode = view["image_size"], image.size, view["crop_mode"]
    scaled = int(size / view["crop_pct"])
    if mode == "border":
        ratio = max(width, height) / scaled
        sides = max(round(width / ratio), 1), max(round(height / ratio), 1)
    else:
        short = min(width, height)
        sides = int(scaled * width / short), int(scaled * height / short)
    sides = (scaled, scaled) if mode == "squash" else sides
    image = image.resize(sides, Image.Resampling[view["interpolation"].upper()])
    fill = tuple(round(255 * value) for value in view["mean"])
    canvas = Image.new("RGB", (max(sides[0], size), max(sides[1], size)), fill)
    canvas.paste(image, ((canvas.width - sides[0]) // 2, (canvas.height - sides[1]) // 2))
    left, top = (round((side - size) / 2) for side in canvas.size)
    return canvas.crop((left, top, left + size, top + size))


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    said = json.loads(session.get_modelmeta().custom_metadata_map["vitlora"])
    known, names = said["confidence"], [output.name for output in session.get_outputs()]
    for photo in sys.argv[2:]:
        picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
        batch = np.asarray(square(picture, said["preprocessing"]))[None]  # (1, size, size, 3)
        values: Any = session.run(names, {"pictures": batch})
        answer = {n: v[0] for n, v in zip(names, values, strict=True)}
        best = int(answer["probabilities"].argmax())
        confidence = float(answer["probabilities"][best])
        unsure = known and confidence < known["unsure_below"]
        unfamiliar = known and float(answer["distances"]) > known["unfamiliar_above"]
        marks = ["unsure"] * bool(unsure) + ["unlike the training pictures"] * bool(unfamiliar)
        print(f"{photo}: {said['classes'][best]} {confidence:.2%}", *marks)
