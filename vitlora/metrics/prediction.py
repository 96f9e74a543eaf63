"""What a picture shows, in words and as plain values. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prediction:
    """What one picture shows.

    Attributes:
        path: The picture's file; ``Path()`` if the picture was passed as an object.
        top: Classes and confidences in ``[0, 1]``, most confident first.
        unsure: Whether the confidence is below the threshold that was chosen after training.
        unfamiliar: Whether the picture is unlike the training pictures, whatever the confidence.
        outside: Whether its values are outside the range of training; see ``images.Opened``.

    Examples:
        >>> answer = Prediction(Path("photo.jpg"), (("can", 0.9), ("tyre", 0.1)))
        >>> answer.label, answer.confidence
        ('can', 0.9)
    """

    path: Path
    top: tuple[tuple[str, float], ...]
    unsure: bool = False
    unfamiliar: bool = False
    outside: bool = False

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.top[0][0]

    @property
    def confidence(self) -> float:
        """Confidence of the most likely class, in ``[0, 1]``."""
        return self.top[0][1]

    @property
    def says(self) -> str:
        """The classes with their confidences, and reasons to doubt them."""
        best, *others = [f"{name} {confidence:.2%}" for name, confidence in self.top]
        said = f"{best}   ({', '.join(others)})" if others else best
        doubts = [
            *(["unsure"] if self.unsure else []),
            *(["unlike the training pictures"] if self.unfamiliar else []),
            *(["values outside the range of training"] if self.outside else []),
        ]
        return f"{said}   [{', '.join(doubts)}]" if doubts else said

    def to_text(self) -> str:
        """Returns one line, which starts with the picture's name."""
        return f"{self.path}: {self.says}"

    def to_json(self) -> dict[str, object]:
        """Returns the prediction as plain values; confidences have six decimals."""
        ranked = [{"class": name, "confidence": round(value, 6)} for name, value in self.top]
        doubts = {name: getattr(self, name) for name in ("unsure", "unfamiliar", "outside")}
        return {"path": str(self.path), **ranked[0], **doubts, "top_k": ranked}


@dataclass(frozen=True)
class OnlyPrediction(Prediction):
    """The prediction for a single picture; its text does not name the picture."""

    def to_text(self) -> str:
        """Returns the line without the picture's name."""
        return self.says
