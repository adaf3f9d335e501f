"""The files of the UEA and UCR archives."""

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.data import read, read_ucr, read_uea

HEADER = "# a comment\n\n@problemName X\n@timeStamps false\n@univariate false\n@equalLength false\n"
CLASSES = HEADER + "@classLabel true up down\n@data\n"
TARGET = HEADER + "@targetlabel true\n@data\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="X_TRAIN.ts"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def refuses(reader, path, sentence, **options):
    with pytest.raises(InputError) as caught:
        reader(path, **options)
    assert str(caught.value).replace(f"{path.parent}/", "") == sentence


class TestUEA:
    def test_unequal_lengths_and_channels(self, write):
        path = write(CLASSES + "1,2,3:4,5,6:up\n7.5:-8e0:down\n")
        recordings = read(path)
        assert [row.tolist() for row in recordings.x] == [[[1, 4], [2, 5], [3, 6]], [[7.5, -8]]]
        assert recordings.classes == ("down", "up")
        assert recordings.y.tolist() == [1, 0]
        assert recordings.names == ("X_TRAIN.ts, line 9", "X_TRAIN.ts, line 10")
        assert recordings.splits == (None, None)
        assert recordings.channels == ("channel_0", "channel_1")

    def test_the_test_file_beside_it(self, write):
        path = write(CLASSES + "1:up\n2:down\n")
        other = write(CLASSES + "3,4:down\n", "X_TEST.ts")
        assert read(path).splits == ("train", "train", "test")
        assert read(path).y.tolist() == [1, 0, 0]
        assert read(other).splits == (None,)

    def test_targets(self, write):
        recordings = read(write(TARGET + "1,2:3.5\n4:-1\n"), task="regression")
        assert recordings.y.tolist() == [[3.5], [-1.0]]
        assert recordings.targets == ("target",)

    @pytest.mark.parametrize("header", [CLASSES, TARGET])
    def test_prediction(self, write, header):
        recordings = read(write(header + "1,2:1\n"), task="prediction")
        assert recordings.x[0].tolist() == [[1], [2]]
        assert recordings.y.tolist() == [-1]

    def test_no_labels(self, write):
        path = write(HEADER + "@classLabel false\n@data\n1,2\n")
        assert read(path, task="prediction").x[0].tolist() == [[1], [2]]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                CLASSES + "1,2:3,4:up\n1,?:3,4:up\n",
                "X_TRAIN.ts, line 10, channel 0, step 1 (counted from 0) has a missing value ('?'), but a number is "
                "needed; fill the gap, or leave the line out.",
            ),
            (
                CLASSES + "1,2:3,:up\n",
                "X_TRAIN.ts, line 9, channel 1, step 1 (counted from 0) has a missing value (''), but a number is "
                "needed; fill the gap, or leave the line out.",
            ),
            (
                CLASSES + "1,x:up\n",
                "X_TRAIN.ts, line 9, channel 0, step 1 (counted from 0) holds 'x', but a finite number is needed; "
                "correct it.",
            ),
            (
                CLASSES + "1,NaN:up\n",
                "X_TRAIN.ts, line 9, channel 0, step 1 (counted from 0) holds 'NaN', but a finite number is needed; "
                "correct it.",
            ),
            (
                CLASSES + "1,2:3:up\n",
                "X_TRAIN.ts, line 9, channel 1 has 1 steps, but channel 0 has 2, and all channels of a recording need "
                "the same; cut or fill it.",
            ),
            (
                CLASSES + "1:2:up\n1:up\n",
                "X_TRAIN.ts, line 10 has 1 channels, but 2 are needed as in X_TRAIN.ts, line 9; correct the line, "
                "which separates channels by colons.",
            ),
            (
                CLASSES + "1:left\n",
                "X_TRAIN.ts, line 9 has the label 'left', but `@classLabel` names up, down; correct one.",
            ),
            (
                CLASSES + "1e99:up\n",
                "X_TRAIN.ts, line 9, row 0 (counted from 0), channel 0 holds 1e+99, but numbers that are finite in "
                "float32 are needed; fill the gap, or cut the recording there.",
            ),
            (
                CLASSES + "up\n",
                "X_TRAIN.ts, line 9 has a label but no values, and one channel at least is needed; leave the line out.",
            ),
            (
                CLASSES,
                "X_TRAIN.ts has no lines after `@data`, but one recording a line is needed there; it may be cut off: "
                "copy it again.",
            ),
            (
                "1,2:up\n",
                "X_TRAIN.ts, line 1 holds '1,2:up' before `@data`, but lines with `@` are needed; correct the header.",
            ),
            (
                "@timeStamps true\n@data\n(0,1):up\n",
                "X_TRAIN.ts, line 1 announces time stamps, but values at regular steps are needed; resample them, and "
                "write values only.",
            ),
            (
                TARGET + "1:2\n",
                "X_TRAIN.ts has no `@classLabel true`, but classes are needed; read it for another task.",
            ),
            ("", "X_TRAIN.ts is empty (0 bytes), but data are needed; copy it again or leave it out."),
        ],
    )
    def test_refused(self, write, text, sentence):
        refuses(read_uea, write(text), sentence)

    def test_other_tasks(self, write):
        path = write(CLASSES + "1:up\n")
        refuses(
            read_uea,
            path,
            "X_TRAIN.ts has no `@targetLabel true`, but a target is needed; read it for another task.",
            task="regression",
        )
        refuses(
            read_uea,
            path,
            "X_TRAIN.ts holds a label a recording, but tagging needs one a step; use a manifest.",
            task="tagging",
        )
        refuses(
            read_uea,
            write(TARGET + "1:heavy\n"),
            "X_TRAIN.ts, line 9, column target holds 'heavy', but regression needs a finite number; correct it, or "
            "leave the row out.",
            task="regression",
        )

    def test_an_empty_test_file_is_not_passed_over(self, write):
        path = write(CLASSES + "1:up\n")
        write("", "X_TEST.ts")
        with pytest.raises(InputError, match=r"X_TEST\.ts is empty \(0 bytes\)"):
            read(path)

    def test_not_text(self, tmp_path):
        (tmp_path / "X.ts").write_bytes(b"@data\n\xff")
        refuses(
            read_uea, tmp_path / "X.ts", "X.ts is not UTF-8 text, but a .ts file has to be; save it again as UTF-8."
        )


class TestUCR:
    def test_pair_with_padding(self, write):
        path = write("1\t0.5\t1.5\t2.5\n-1\t3\tNaN\tNaN\n", "X_TRAIN.tsv")
        write("-1\t4\t5\n", "X_TEST.tsv")
        recordings = read(path)
        assert [row[:, 0].tolist() for row in recordings.x] == [[0.5, 1.5, 2.5], [3], [4, 5]]
        assert recordings.classes == ("-1", "1")
        assert recordings.y.tolist() == [1, 0, 0]
        assert recordings.splits == ("train", "train", "test")
        assert recordings.names[2] == "X_TEST.tsv, row 0"

    def test_labels_written_as_floats_and_targets(self, write):
        path = write("1.0000000e+00\t1\n2.0000000e+00\t2\n", "X.tsv")
        assert read(path).classes == ("1", "2")
        assert read(path, task="regression").y.tolist() == [[1.0], [2.0]]
        assert read(path, task="prediction").y.tolist() == [-1, -1]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                "1\t0\tNaN\t2\n",
                "X.tsv, row 0 (counted from 0) has NaN at step 1 within the series, but NaN may stand only at the end "
                "as padding; fill the gap, or leave the row out.",
            ),
            (
                "1\t0\t1\n2\tNaN\tNaN\n",
                "X.tsv, row 1 (counted from 0) has no values after its label, but one at least is needed; leave the "
                "row out.",
            ),
            (
                "NaN\t0\t1\n",
                "X.tsv, row 0 (counted from 0) has no label in its first column, but a number is needed there; correct "
                "it.",
            ),
            (
                "1\t0\t1\n2\t0\n",
                "X.tsv, line 2 has 2 fields, but 3 are needed as on line 1; complete it, or delete it if the file was "
                "cut off there.",
            ),
            (
                "1\t0\t1\n2\t0\tx\n",
                "X.tsv, line 2, column 3 holds 'x', but a number is needed; correct it, or leave out columns without "
                "numbers.",
            ),
            (
                "1\tinf\t1\n",
                "X.tsv, row 0 (counted from 0) holds a value that is infinite in float32, but finite numbers are "
                "needed; fill the gap, or leave the row out.",
            ),
        ],
    )
    def test_refused(self, write, text, sentence):
        refuses(read_ucr, write(text, "X.tsv"), sentence)

    def test_tagging(self, write):
        refuses(
            read_ucr,
            write("1\t2\n", "X.tsv"),
            "X.tsv holds a label a recording, but tagging needs one a step; use a manifest.",
            task="tagging",
        )

    def test_round_trip(self, tmp_path):
        values = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
        labels = np.arange(20) % 3
        np.savetxt(tmp_path / "X.tsv", np.column_stack([labels, values]), delimiter="\t", fmt="%.9g")
        recordings = read(tmp_path / "X.tsv")
        np.testing.assert_array_equal(np.stack(recordings.x)[..., 0], values)
        assert recordings.y.tolist() == labels.tolist()
