"""Image files with the same bytes."""

from common.duplicates import leaks, shared_images

IMAGES = {
    "a": {"flair": "1", "t1": "2"},
    "b": {"flair": "1", "t1": "3"},
    "c": {"flair": "4", "t1": "2"},
    "d": {"flair": "5", "t1": "5"},
}


def test_images_of_several_cases_and_of_one_are_found() -> None:
    assert shared_images(IMAGES) == [
        [("a", "flair"), ("b", "flair")],
        [("a", "t1"), ("c", "t1")],
        [("d", "flair"), ("d", "t1")],
    ]


def test_only_images_in_two_splits_are_leaks() -> None:
    splits = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert leaks(splits, IMAGES) == [("a (train)", "c (val)")]
    assert leaks({"train": ["a", "b"], "val": ["d"]}, IMAGES) == []
