"""Pictures as tasks for Label Studio, with the bundle's answers as pre-annotations."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from vitlora.errors import counted
from vitlora.files import write_whole
from vitlora.labelling.session import Question
from vitlora.notes import tell

_PICTURE, _QUESTION = "image", "class"  # fields that ``data/layouts/label_studio.py`` finds again


def write_tasks(
    target: Path, questions: Sequence[Question], inbox: Path, bundle: Path, classes: Sequence[str]
) -> None:
    """Writes tasks for Label Studio, and says what to paste into its project.

    Args:
        target: The .json file.
        questions: In the order in which they are worth a label.
        inbox: Folder of the pictures.
        bundle: Folder of the bundle, whose name Label Studio shows with its answers.
        classes: The choices.
    """
    made = tasks(questions, inbox.resolve().name, bundle.resolve().name)
    write_whole(target, json.dumps(made, indent=1) + "\n")
    tell(f"wrote {counted(len(made), 'task')} to {target}; the project's labelling interface:")
    tell(labelling_config(classes))


def tasks(questions: Iterable[Question], inbox: str, model: str) -> list[dict[str, object]]:
    """Returns tasks as https://labelstud.io/guide/task_format describes them.

    Label Studio reads pictures from a folder inside its document root, which that folder may not
    be itself: its addresses start with the name of the inbox.

    Args:
        questions: In the order in which they are worth a label.
        inbox: Name of the folder of the pictures.
        model: Name of the bundle, which Label Studio shows with its answers.
    """
    return [
        {
            "data": {_PICTURE: f"/data/local-files/?d={_quoted(f'{inbox}/{one.picture.name}')}"},
            "predictions": [
                {
                    "model_version": model,
                    "score": round(one.prediction.confidence, 6),
                    "result": [
                        {
                            "from_name": _QUESTION,
                            "to_name": _PICTURE,
                            "type": "choices",
                            "value": {"choices": [one.prediction.label]},
                        }
                    ],
                }
            ],
        }
        for one in questions
    ]


def labelling_config(classes: Sequence[str]) -> str:
    """Returns the XML of a project whose question the tasks answer."""
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in classes)
    return (
        f'<View><Image name="{_PICTURE}" value="${_PICTURE}"/>'
        f'<Choices name="{_QUESTION}" toName="{_PICTURE}" showInline="true">{choices}</Choices>'
        "</View>"
    )


def _quoted(name: str) -> str:
    return quote(os.fsencode(name))  # bytes, because a name on a disk need not be UTF-8
