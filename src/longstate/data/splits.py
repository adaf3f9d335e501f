"""Which recordings train, which validate and which test."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from longstate._checks import InputError, check_choice
from longstate.data.labels import class_order
from longstate.data.randomness import random_generator
from longstate.data.recordings import Recordings

By = Literal["auto", "group", "stratified", "manifest"]


class Split(NamedTuple):
    """Row numbers of the three parts, int64, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    recordings: Recordings, *, validation: float = 0.2, test: float = 0.0, by: By = "auto", seed: int = 0
) -> Split:
    """Divide recordings into training, validation and test parts.

    What the source says (`recordings.splits`) is kept: the test and validation recordings are those that it names, and
    only a part that it does not name is cut from the rest. A part is chosen at random, near to its share of every
    class, and no class is taken away from training altogether.

    Args:
        recordings: Labelled recordings.
        validation: The share to validate with of the recordings that the source leaves open, 0 for none.
        test: The share to test with of the recordings that the source leaves open, 0 for none.
        by: "group" keeps every group on one side; "stratified" divides single recordings and ignores groups;
            "manifest" insists that the source has named splits; "auto" divides by group if there are groups.
        seed: Another seed, another division.

    Returns:
        The row numbers of each part.

    Raises:
        InputError: If there are no labels, one recording or one class; if a group or a class cannot be kept on the
            side where it has to be.

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> recordings = from_arrays([np.zeros(9)] * 4, ["a", "b", "a", "b"], groups=["p", "p", "q", "q"])
        >>> parts = split(recordings, validation=0.5)
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (2, 2, 0)
    """
    check_choice(by, ("auto", "group", "stratified", "manifest"), name="by")
    _check_shares(validation, test)
    _check_labels(recordings)
    groups = _groups(recordings, by)
    part = np.array([name or "train" for name in recordings.splits], dtype=object)
    _check_groups_agree(recordings, groups, part)
    random = random_generator(seed)
    open_rows = np.flatnonzero(part == "train")
    share = validation
    if test > 0 and not np.any(part == "test"):
        part[_take(recordings, groups, open_rows, test, random, name="test")] = "test"
        open_rows, share = np.flatnonzero(part == "train"), validation / (1 - test)
    if validation > 0 and not np.any(part == "validation"):
        part[_take(recordings, groups, open_rows, share, random, name="validation")] = "validation"
    result = Split(*(np.flatnonzero(part == name) for name in ("train", "validation", "test")))
    _check_training(recordings, result)
    return result


def leave_one_group_out(recordings: Recordings, *, validation: float = 0.0, seed: int = 0) -> Iterator[Split]:
    """One split for each group, in which that group is the test part; the source's own splits are ignored.

    Args:
        recordings: Labelled recordings with groups.
        validation: The share of the other recordings to validate with, cut by group.
        seed: Another seed, other validation parts.

    Returns:
        An iterator over the splits, in the order of the groups, as numbers or else by letters.

    Raises:
        InputError: If there are fewer than two groups, or a class that only one group has.
    """
    _check_shares(validation, 0.0)
    _check_labels(recordings)
    groups = _groups(recordings, "group")
    if len(np.unique(groups)) < 2:
        raise InputError(
            f"all {len(recordings)} recordings belong to the group {groups[0]}, but two groups at least are needed; "
            "name the groups, or split by 'stratified'."
        )
    return (
        _without_group(recordings, groups, group, validation, seed) for group in class_order(recordings.groups or ())
    )


def _without_group(recordings: Recordings, groups: np.ndarray, group: str, validation: float, seed: int) -> Split:
    test, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
    held = rest[:0]
    if validation > 0:
        held = _take(recordings, groups, rest, validation, random_generator(seed), name="validation")
    result = Split(np.setdiff1d(rest, held), held, test)
    _check_training(recordings, result)
    return result


def _check_shares(validation: float, test: float) -> None:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"`validation` is {validation} and `test` is {test}, but shares from 0 that leave something to train with "
            "are needed; choose them so that their sum is below 1."
        )


def _check_labels(recordings: Recordings) -> None:
    if len(recordings) < 2:
        raise InputError(
            f"there is {len(recordings)} recording, but training and validation need one each at least; add "
            "recordings, or cut a long one into parts."
        )
    if recordings.task == "prediction":
        raise InputError(
            f"none of the {len(recordings)} recordings has a label, but training needs labels; write a manifest with "
            "the columns path and label."
        )
    present = np.flatnonzero(_class_counts(recordings).sum(axis=0))
    if not recordings.has_numbers and len(present) < 2:
        name = recordings.classes[int(present[0])] if len(present) else "unknown"
        raise InputError(
            f"all {len(recordings)} recordings are of the class {name!r}, but two classes at least are needed; add "
            "recordings of another class."
        )


def _groups(recordings: Recordings, by: str) -> np.ndarray:
    """The group of each recording; each recording its own group where groups do not count."""
    if by == "group" and recordings.groups is None:
        raise InputError(
            "a split by group was asked for, but the recordings have no groups; add a column `group` to the manifest, "
            "or split by 'stratified'."
        )
    if by == "manifest" and not any(recordings.splits):
        raise InputError(
            "a split by manifest was asked for, but no recording has a split; add a column `split` with train, "
            "validation, test, or split by 'group' or 'stratified'."
        )
    if by == "stratified" or recordings.groups is None:
        return np.arange(len(recordings)).astype(str)
    return np.array(recordings.groups)


def _check_groups_agree(recordings: Recordings, groups: np.ndarray, part: np.ndarray) -> None:
    """Raise if the source puts one group on two sides."""
    first: dict[str, int] = {}
    for row, group in enumerate(groups):
        other = first.setdefault(group, row)
        if part[other] != part[row]:
            raise InputError(
                f"the group {group} has {recordings.names[other]} in {part[other]} and {recordings.names[row]} in "
                f"{part[row]}, but a group may be on one side only; correct the splits, or split by 'stratified'."
            )


def _class_counts(recordings: Recordings) -> np.ndarray:
    """How much each recording holds of each class (n, classes): 1 for its class, steps for tagging."""
    if recordings.has_numbers:
        return np.ones((len(recordings), 1))
    labels = recordings.y if isinstance(recordings.y, tuple) else recordings.y[:, None]
    width = len(recordings.classes)
    return np.stack([np.bincount(label[label >= 0], minlength=width) for label in labels]).astype(float)


def _take(
    recordings: Recordings,
    groups: np.ndarray,
    rows: np.ndarray,
    share: float,
    random: np.random.Generator,
    *,
    name: str,
) -> np.ndarray:
    """Some of `rows`, whole groups of them, near to the share of every class, leaving every class to the others."""
    units, unit_of_row = np.unique(groups[rows], return_inverse=True)
    counts = np.zeros((len(units), len(recordings.classes) or 1))
    np.add.at(counts, unit_of_row, _class_counts(recordings)[rows])
    sizes = np.bincount(unit_of_row).astype(float)[:, None]
    order = random.permutation(len(units))
    taken = np.zeros(len(units), dtype=bool)
    left = counts.sum(axis=0)
    for measure in (counts, sizes):  # first near to the share of each class, then to the share of all recordings
        missing = share * measure.sum(axis=0) - measure[taken].sum(axis=0)
        for unit in order:
            nearer = np.abs(missing - measure[unit]).sum() < np.abs(missing).sum()
            if nearer and not taken[unit] and _keeps_classes(left, counts[unit]):
                taken[unit] = True
                missing = missing - measure[unit]
                left = left - counts[unit]
    if not taken.any():
        possible = [unit for unit in order if _keeps_classes(left, counts[unit])]
        if not possible:
            raise InputError(
                f"no part for {name} can be taken from {len(units)} groups or recordings without taking a whole class "
                f"from training; add recordings of the rare classes, or set `{name}=0`."
            )
        taken[min(possible, key=lambda unit: sizes[unit, 0])] = True
    return rows[taken[unit_of_row]]


def _keeps_classes(left: np.ndarray, taken: np.ndarray) -> bool:
    """Whether every class that is left stays so when `taken` goes."""
    return not np.any((left > 0) & (left - taken <= 0))


def _check_training(recordings: Recordings, result: Split) -> None:
    """Raise unless something trains, and every class of the other parts is trained."""
    if len(result.train) == 0:
        raise InputError(
            f"all {len(recordings)} recordings are for validation or test, but some are needed for training; correct "
            "the column `split`."
        )
    counts = _class_counts(recordings)
    trained = counts[result.train].sum(axis=0) > 0
    for name, rows in (("validation", result.validation), ("test", result.test)):
        unseen = np.flatnonzero((counts[rows].sum(axis=0) > 0) & ~trained)
        if len(unseen):
            raise InputError(
                f"the class {recordings.classes[int(unseen[0])]!r} is in the {name} part only, but a class has to be "
                "trained before it can be recognised; move a recording of it to training, or leave the class out."
            )
