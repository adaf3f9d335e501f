"""Choosing the reader by what the source is, and folders without labels."""

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.data import read

TS = "@classLabel true up down\n@data\n1,2:up\n3:down\n"


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "b.npy", np.array([[1.0, 2.0]]))
    (tmp_path / "a.csv").write_text("3,4\n5,6\n")
    (tmp_path / "notes.txt").write_text("not a recording")
    (tmp_path / "sub.csv").mkdir()
    return tmp_path


def test_folder_in_the_order_of_names(folder):
    recordings = read(folder)
    assert recordings.names == ("a.csv", "b.npy")
    assert [row.tolist() for row in recordings.x] == [[[3, 4], [5, 6]], [[1, 2]]]
    assert (recordings.task, recordings.classes, recordings.y.tolist()) == ("prediction", (), [-1, -1])
    assert recordings.channels == ("channel_0", "channel_1")
    assert read(str(folder), channels=["u", "v"]).channels == ("u", "v")


def test_channels_of_a_model_in_files_that_name_theirs(tmp_path):
    (tmp_path / "a.csv").write_text("time,v,u\nx,1,2\n")
    (tmp_path / "b.csv").write_text("u,v\n3,4\n")
    recordings = read(tmp_path, channels=["u", "v"])
    assert recordings.channels == ("u", "v")
    assert [row.tolist() for row in recordings.x] == [[[2, 1]], [[3, 4]]]
    (tmp_path / "c.csv").write_text("u,w\n3,4\n")
    with pytest.raises(InputError, match=r"c\.csv has the columns u, w, but v is needed too"):
        read(tmp_path, channels=["u", "v"])


def test_channels_by_position_keep_the_names_of_the_model(tmp_path):
    (tmp_path / "a.csv").write_text("u,v\n3,4\n")
    recordings = read(tmp_path / "a.csv", channels=["channel_0", "channel_1"])
    assert recordings.channels == ("channel_0", "channel_1")


def test_single_recordings(folder):
    assert read(folder / "b.npy").x[0].tolist() == [[1, 2]]
    assert read(folder / "a.csv", task="prediction").names == ("a.csv",)


def test_manifests_are_told_from_recordings_by_the_column_path(folder):
    (folder / "m.csv").write_text("path,label\na.csv,x\nb.npy,y\n")
    assert read(folder / "m.csv").classes == ("x", "y")
    assert read(folder / "m.csv", task="prediction").classes == ()
    (folder / "r.csv").write_text("file,label\na.csv,x\n")
    with pytest.raises(InputError, match=r"r\.csv, line 2, column 1 \(file\) holds 'a\.csv', but a number is needed"):
        read(folder / "r.csv")


def test_archives(tmp_path):
    (tmp_path / "a.ts").write_text(TS)
    (tmp_path / "a.tsv").write_text("1\t2\t3\n2\t4\t5\n")
    assert read(tmp_path / "a.ts").lengths.tolist() == [2, 1]
    assert read(tmp_path / "a.tsv").lengths.tolist() == [2, 2]
    with pytest.raises(InputError, match=r"the source has 1 channels, but 2 are needed \(u, v\)"):
        read(tmp_path / "a.ts", channels=["u", "v"])


def test_wrong_task(tmp_path):
    with pytest.raises(InputError, match="`task` is 'clustering', but one of classification, tagging"):
        read(tmp_path, task="clustering")


def refuses(source, sentence):
    with pytest.raises(InputError) as caught:
        read(source)
    assert str(caught.value).replace(str(source), "SOURCE") == sentence


def test_what_is_no_source(tmp_path):
    refuses(
        tmp_path,
        "SOURCE holds no recordings, but files ending in .csv, .tsv, .parquet, .npy, .npz, .wav are needed; check the "
        "folder.",
    )
    refuses(tmp_path / "none.csv", "SOURCE is not a file, but a file is needed; correct the path.")
    (tmp_path / "a.mat").write_text("x")
    refuses(
        tmp_path / "a.mat",
        "SOURCE ends in '.mat', but a source ends in .ts, .csv, .tsv, .parquet, .npy, .npz, .wav, or is a folder; "
        "convert it, or write a manifest that names the files.",
    )


def test_recordings_that_do_not_fit_together(folder):
    np.save(folder / "c.npy", np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"c\.npy has 3 channels, but .*a\.csv has 2, and all recordings need"):
        read(folder)


def test_sampling_rates_that_differ(tmp_path):
    import wave

    for name, rate in (("a.wav", 8000), ("b.wav", 16000)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(b"\0\0" * 4)
    assert read(tmp_path / "a.wav").sampling_rate == 8000
    with pytest.raises(InputError, match=r"b\.wav has the sampling rate 16000\.0 Hz, but .*a\.wav has 8000\.0 Hz"):
        read(tmp_path)
    (tmp_path / "m.csv").write_text("path,label,sampling_rate\na.wav,x,8001\n")
    with pytest.raises(InputError, match=r"m\.csv, line 2 has the sampling rate 8001 Hz, but the files have 8000 Hz"):
        read(tmp_path / "m.csv")
