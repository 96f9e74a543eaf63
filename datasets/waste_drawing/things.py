"""The kinds of waste by name: a new kind is one new module and one line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from waste_drawing.bottle import bottle
from waste_drawing.can import can
from waste_drawing.cardboard_box import cardboard_box
from waste_drawing.coffee_tin import coffee_tin
from waste_drawing.thing import Thing
from waste_drawing.tyre import tyre

# In this order, on which the pictures' seeds depend.
THINGS: dict[str, Callable[[np.random.Generator], Thing]] = {
    "bottle": bottle,
    "can": can,
    "cardboard box": cardboard_box,
    "tyre": tyre,
    "coffee tin": coffee_tin,
}
