"""The kinds of waste by name: a new kind is one new module and one line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vitlora.data.drawn.bottle import bottle
from vitlora.data.drawn.can import can
from vitlora.data.drawn.cardboard_box import cardboard_box
from vitlora.data.drawn.coffee_tin import coffee_tin
from vitlora.data.drawn.thing import Thing
from vitlora.data.drawn.tyre import tyre

# In this order, on which the pictures' seeds depend.
THINGS: dict[str, Callable[[np.random.Generator], Thing]] = {
    "bottle": bottle,
    "can": can,
    "cardboard box": cardboard_box,
    "tyre": tyre,
    "coffee tin": coffee_tin,
}
