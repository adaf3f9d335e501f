"""Manifests: what they name, and every way in which a row can be wrong."""

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.data import read, read_manifest, read_step_labels


@pytest.fixture
def folder(tmp_path):
    """Three recordings of the channels ax, ay with 2, 3 and 4 steps; c.csv has them in the other order."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.csv").write_text("ax,ay\n0,10\n1,11\n")
    (tmp_path / "sub" / "b.csv").write_text("ax,ay\n2,12\n3,13\n4,14\n")
    (tmp_path / "c.csv").write_text("ay,ax\n15,5\n16,6\n17,7\n18,8\n")
    return tmp_path


def manifest(folder, text, **options):
    (folder / "m.csv").write_text(text)
    return read_manifest(folder / "m.csv", **options)


def refuses(folder, text, sentence, **options):
    with pytest.raises(InputError) as caught:
        manifest(folder, text, **options)
    assert str(caught.value).replace(f"{folder}/", "") == sentence


class TestClassification:
    def test_all_columns(self, folder):
        recordings = manifest(
            folder,
            "group,path,label,split,sampling_rate,note\n"
            "p1,a.csv,walk,train,50,x\n"
            "\n"
            "p2,sub/b.csv,run,test,50,\n"
            "p3, c.csv ,walk,,50.0,\n",
        )
        assert [row.shape for row in recordings.x] == [(2, 2), (3, 2), (4, 2)]
        assert recordings.x[2].tolist() == [[5, 15], [6, 16], [7, 17], [8, 18]], "columns go by their names"
        assert recordings.classes == ("run", "walk")
        assert recordings.y.tolist() == [1, 0, 1]
        assert recordings.y.dtype == np.int64
        assert recordings.groups == ("p1", "p2", "p3")
        assert recordings.splits == ("train", "test", None)
        assert recordings.names == ("a.csv", "sub/b.csv", "c.csv")
        assert recordings.channels == ("ax", "ay")
        assert recordings.sampling_rate == 50.0
        assert recordings.task == "classification"

    def test_least_columns_with_semicolons(self, folder):
        recordings = manifest(folder, "path;label\na.csv;2\nc.csv;10\n")
        assert recordings.classes == ("2", "10"), "numbers in the order of numbers"
        assert (recordings.groups, recordings.splits, recordings.sampling_rate) == (None, (None, None), None)

    def test_chosen_channels(self, folder):
        recordings = manifest(folder, "path,label\na.csv,x\nc.csv,y\n", channels=["ay"])
        assert recordings.channels == ("ay",)
        assert recordings.x[1].tolist() == [[15], [16], [17], [18]]

    def test_parquet(self, folder):
        import pandas

        table = pandas.DataFrame({"path": ["a.csv", "sub/b.csv"], "label": [3, 1], "group": ["p", "q"]})
        table.to_parquet(folder / "m.parquet")
        recordings = read(folder / "m.parquet")
        assert recordings.classes == ("1", "3")
        assert recordings.y.tolist() == [1, 0]
        table.assign(label=[3, None]).to_parquet(folder / "m.parquet")
        with pytest.raises(InputError, match=r"m\.parquet, row 1 \(counted from 0\) has an empty label"):
            read(folder / "m.parquet")


class TestRegression:
    def test_the_label_as_a_number(self, folder):
        recordings = manifest(folder, "path,label\na.csv,1.5\nsub/b.csv,-2\n", task="regression")
        assert recordings.y.tolist() == [[1.5], [-2.0]]
        assert (recordings.y.dtype, recordings.classes, recordings.targets) == (np.float32, (), ("label",))
        assert recordings.task == "regression"

    def test_several_targets(self, folder):
        text = "path,mass,height\na.csv,70,1.8\nc.csv,60,1.7\n"
        recordings = manifest(folder, text, task="regression", targets=["height", "mass"])
        np.testing.assert_array_equal(recordings.y, np.array([[1.8, 70], [1.7, 60]], dtype=np.float32))
        assert recordings.targets == ("height", "mass")

    @pytest.mark.parametrize("value", ["", "heavy", "nan", "inf"])
    def test_no_number(self, folder, value):
        refuses(
            folder,
            f"path,label\na.csv,1\nc.csv,{value}\n",
            f"m.csv, line 3, column label holds {value!r}, but regression needs a finite number; correct it, or leave "
            "the row out.",
            task="regression",
        )


class TestTagging:
    def test_names_and_numbers(self, folder):
        (folder / "a.txt").write_text("label\nrest\nmove\n")
        np.save(folder / "b.npy", np.array(["move", "move", "fall"]))
        recordings = manifest(folder, "path,labels_path\na.csv,a.txt\nsub/b.csv,b.npy\n", task="tagging")
        assert recordings.classes == ("fall", "move", "rest")
        assert [y.tolist() for y in recordings.y] == [[2, 1], [1, 1, 0]]
        assert all(y.dtype == np.int64 for y in recordings.y)
        assert recordings.task == "tagging"

    def test_integers(self, folder):
        np.save(folder / "b.npy", np.array([10, 2, 2]))
        assert manifest(folder, "path,labels_path\nsub/b.csv,b.npy\n", task="tagging").classes == ("2", "10")

    def test_wrong_number_of_labels(self, folder):
        (folder / "a.txt").write_text("rest\nmove\nmove\n")
        refuses(
            folder,
            "path,labels_path\na.csv,a.txt\n",
            "m.csv, line 2: a.txt has 3 labels, but a.csv has 2 steps and needs one a step; cut the longer of the two.",
            task="tagging",
        )

    def test_numbers(self, folder):
        (folder / "t.csv").write_text("slope,level\n1,5\n2,6\n")
        text = "path,labels_path\na.csv,t.csv\n"
        recordings = manifest(folder, text, task="step_regression", targets=["level", "slope"])
        assert (recordings.task, recordings.targets) == ("step_regression", ("level", "slope"))
        assert recordings.y[0].tolist() == [[5, 1], [6, 2]]
        np.save(folder / "t.npy", np.array([3.0, 4.0]))
        recordings = manifest(folder, text.replace("t.csv", "t.npy"), task="step_regression")
        assert (recordings.targets, recordings.y[0].tolist()) == (("label",), [[3], [4]])
        refuses(
            folder,
            "path,labels_path\na.csv,\n",
            "m.csv, line 2 has an empty `labels_path`, but a file with numbers a step is needed; name it.",
            task="step_regression",
        )

    def test_no_file_named(self, folder):
        refuses(
            folder,
            "path,labels_path\na.csv,\n",
            "m.csv, line 2 has an empty `labels_path`, but a file with a class a step is needed; name it.",
            task="tagging",
        )
        with pytest.raises(InputError, match=r"no\.txt is not a file, but a file is needed; correct the path"):
            manifest(folder, "path,labels_path\na.csv,no.txt\n", task="tagging")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("a\n\nb\n", r"l\.csv, line 2 has an empty label, but a class name is needed"),
            ("a\nb,c\n", r"l\.csv, line 2 has 2 fields, but one class a line is needed; keep one"),
            ("label\n", r"l\.csv holds no labels, but one class a line is needed"),
            ("\xff", r"l\.csv is not UTF-8 text, but a \.csv file has to be"),
        ],
    )
    def test_unusable_text(self, tmp_path, text, sentence):
        (tmp_path / "l.csv").write_bytes(text.encode("latin1"))
        with pytest.raises(InputError, match=sentence):
            read_step_labels(tmp_path / "l.csv")

    @pytest.mark.parametrize("labels", [np.zeros(3), np.zeros((3, 1), int), np.zeros(0, int)])
    def test_unusable_arrays(self, tmp_path, labels):
        np.save(tmp_path / "l.npy", labels)
        with pytest.raises(InputError, match=r"but one integer or text a step \(length,\) is needed"):
            read_step_labels(tmp_path / "l.npy")

    def test_blank_lines_at_the_end_are_no_labels(self, tmp_path):
        (tmp_path / "l.txt").write_text("a\nb\n\n\n")
        assert read_step_labels(tmp_path / "l.txt").tolist() == ["a", "b"]


class TestPrediction:
    def test_labels_are_not_needed(self, folder):
        recordings = manifest(folder, "path\na.csv\nsub/b.csv\n", task="prediction")
        assert recordings.y.tolist() == [-1, -1]
        assert recordings.task == "prediction"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "path,class\na.csv,walk\n",
            "m.csv has the columns path, class, but a manifest needs path, label; add label.",
        ),
        (
            "file,label\na.csv,walk\n",
            "m.csv has the columns file, label, but a manifest needs path, label; add path.",
        ),
        ("path,label\n", "m.csv names no recordings, but one row at least is needed; add a row for each file."),
        (
            "path,label\na.csv,walk\nz.csv,run\n",
            "m.csv, line 3 names the recording 'z.csv', but no such file is in FOLDER; correct the path, which is "
            "relative to the manifest.",
        ),
        (
            "path,label\n,walk\n",
            "m.csv, line 2 names the recording '', but no such file is in FOLDER; correct the path, which is relative "
            "to the manifest.",
        ),
        (
            "path,label\na.csv,walk\n\na.csv,run\n",
            "m.csv, line 4 names 'a.csv' again after m.csv, line 2, but each recording may be named once; delete one "
            "row.",
        ),
        (
            "path,label\na.csv,walk\nc.csv, \n",
            "m.csv, line 3 has an empty label, but a class name is needed; write the class, or leave the row out.",
        ),
        (
            "path,label,split\na.csv,walk,dev\n",
            "m.csv, line 2 has the split 'dev', but one of train, validation, test is needed; correct it.",
        ),
        (
            "path,label,group\na.csv,walk,p\nc.csv,walk,\n",
            "m.csv, line 3 has an empty `group`, but every row needs one; name it, or drop the column.",
        ),
        (
            "path,label,sampling_rate\na.csv,walk,fast\n",
            "m.csv, line 2 has the sampling rate 'fast', but a positive number in Hz is needed; correct it.",
        ),
        (
            "path,label,sampling_rate\na.csv,walk,50\nc.csv,walk,60\n",
            "m.csv, line 3 has the sampling rate 60 Hz, but the rows before have 50 Hz, and all recordings need the "
            "same; resample, or correct the number.",
        ),
        (
            "path,label\na.csv,walk,fast\n",
            "m.csv, line 2 has 3 fields, but 2 are needed as in the header; complete the row, or put a field that "
            "holds the separator in quotes.",
        ),
        (
            "path,label\na.csv,walk\nd.csv,run\n",
            "d.csv has 3 channels, but a.csv has 2, and all recordings need the same; leave one out, or choose the "
            "channels that both have.",
        ),
        (
            "path,label\na.csv,walk\ne.csv,run\n",
            "e.csv has the channels ax, az, but a.csv has ax, ay, and all recordings need the same; rename the "
            "columns, or choose the channels that both have.",
        ),
    ],
)
def test_refused(folder, text, sentence):
    (folder / "d.csv").write_text("1,2,3\n")
    (folder / "e.csv").write_text("ax,az\n1,2\n")
    refuses(folder, text, sentence.replace("FOLDER", str(folder)))


def test_not_text(folder):
    (folder / "m.csv").write_bytes(b"path,label\na.csv,\xff\n")
    with pytest.raises(InputError, match=r"m\.csv is not UTF-8 text, but a \.csv file has to be; save it again"):
        read_manifest(folder / "m.csv")
