"""`dataset.json` of nnU-Net and the Decathlon: what channels and label values are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json, reason_of
from common.layouts import CHANNEL, COMPANION, label_named, modality_named
from common.task import Task

NAME = "dataset.json"


@dataclass(frozen=True)
class DatasetJson:
    """What the file of one dataset states; nothing where it is missing or cannot be used."""

    channels: tuple[str, ...] = ()
    """Names of the images, in the order of their numbers."""
    labels: dict[str, frozenset[int]] = field(default_factory=dict)
    """Name of a label or region to its values."""
    problem: str = ""
    """Why a file that is there cannot be used."""

    @classmethod
    def read(cls, folder: Path) -> "DatasetJson":
        """The dataset of a folder.

        nnU-Net 1 and the Decathlon write `modality` and number labels, `{"1": "edema"}`; nnU-Net 2
        writes `channel_names` and names them, `{"edema": 1}` or, for a region, `{"core": [2, 3]}`.
        """
        try:
            content = read_json(folder / NAME)
            channels = content.get("channel_names") or content.get("modality") or {}
            names = [str(channels[number]) for number in sorted(channels, key=int)]
            return cls(tuple(names), _labels(content.get("labels") or {}))
        except FileNotFoundError:
            return cls()
        except (OSError, InputError) as error:
            return cls(problem=reason_of(error))
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            return cls(problem=f"values that cannot be read ({type(error).__name__}: {error})")

    def role(self, channel: str, task: Task) -> str:
        """What a channel such as `0001` is: a modality of the task, another image, or unknown."""
        number = int(channel)
        if number >= len(self.channels):
            return CHANNEL
        return modality_named(self.channels[number], task.modalities) or COMPANION

    def conventions(self, task: Task) -> set[str] | None:
        """The task's conventions that have all stated labels; None if none is stated.

        Several names of one label have its values together, as 1 and 3 of BraTS 2015's core.
        """
        known = {*task.labels, *task.regions}
        named: dict[str, frozenset[int]] = {}
        for text, values in self.labels.items():
            if (name := label_named(text, known)) and name != "background":
                named[name] = named.get(name, frozenset()) | values
        if not named:
            return None
        return {
            convention
            for convention in task.conventions
            if all(_values(task, convention, name) == values for name, values in named.items())
        }


class Datasets(dict[Path, DatasetJson]):
    """Each folder's dataset, read once."""

    def __missing__(self, folder: Path) -> DatasetJson:
        return self.setdefault(folder, DatasetJson.read(folder))


def _labels(stated: dict[str, Any]) -> dict[str, frozenset[int]]:
    if all(isinstance(name, str) and name.isdigit() for name in stated):
        return {str(name): frozenset({int(value)}) for value, name in stated.items()}
    return {
        name: frozenset(map(int, values if isinstance(values, list) else [values]))
        for name, values in stated.items()
    }


def _values(task: Task, convention: str, name: str) -> frozenset[int]:
    """The values of a label or a region in the files of a convention; none if it is unknown."""
    members = task.regions.get(name, ())
    labels = [label for label, value in task.labels.items() if label == name or value in members]
    return frozenset(value for n in labels for value in task.file_values(convention, n))
