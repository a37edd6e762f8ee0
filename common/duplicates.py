"""Image files with the same bytes, in one case or in several."""

from collections.abc import Iterable, Mapping


def shared_images(images: Mapping[str, Mapping[str, str]]) -> list[list[tuple[str, str]]]:
    """Groups of (case, modality) whose files have the same checksum, in the order of `images`.

    `images` maps case id to modality to checksum. Copies that were saved again are not found.
    """
    owners: dict[str, list[tuple[str, str]]] = {}
    for case_id, checksums in images.items():
        for modality, checksum in checksums.items():
            owners.setdefault(checksum, []).append((case_id, modality))
    return [group for group in owners.values() if len(group) > 1]


def leaks(
    splits: Mapping[str, Iterable[str]], images: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, str]]:
    """Pairs of cases that share an image and are in different splits, each as `case (split)`."""
    split_of = {case_id: name for name, cases in splits.items() for case_id in cases}
    pairs = dict[tuple[str, str], None]()
    for (first, _), *others in shared_images({case_id: images[case_id] for case_id in split_of}):
        for other, _ in others:
            if split_of[other] != split_of[first]:
                pairs[f"{first} ({split_of[first]})", f"{other} ({split_of[other]})"] = None
    return list(pairs)
