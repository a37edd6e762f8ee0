"""Image files with the same bytes, in one case or in several."""

from collections.abc import Mapping


def shared_images(images: Mapping[str, Mapping[str, str]]) -> list[list[tuple[str, str]]]:
    """Groups of (case, modality) whose files have the same checksum, in the order of `images`.

    Copies that were saved again differ in bytes, and are not found.

    Args:
        images: case id to modality to checksum.
    """
    owners: dict[str, list[tuple[str, str]]] = {}
    for case_id, checksums in images.items():
        for modality, checksum in checksums.items():
            owners.setdefault(checksum, []).append((case_id, modality))
    return [group for group in owners.values() if len(group) > 1]
