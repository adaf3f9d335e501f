"""Reading one recording: every format, and every way in which a file can be wrong."""

import pickle
import struct
import sys
import wave
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from longstate._checks import InputError
from longstate.data import read_recording

VALUES = np.array([[0.5, -1.0, 2.0], [3.25, 4.0, -5.5]], dtype=np.float32)


def refuses(path, sentence):
    """The whole message, with FILE for the path."""
    with pytest.raises(InputError) as caught:
        read_recording(path)
    assert str(caught.value).replace(str(path), "FILE") == sentence


@pytest.fixture
def csv(tmp_path):
    def write(text, name="a.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


class TestText:
    @pytest.mark.parametrize("mark", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
    @pytest.mark.parametrize("header", ["", "ax,ay,az\n"], ids=["bare", "header"])
    def test_separators(self, csv, mark, header):
        text = header + "0.5,-1,2\n3.25,4e0,-5.5\n"
        x, channels, rate = read_recording(csv(text.replace(",", mark)))
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, VALUES)
        assert channels == (("ax", "ay", "az") if header else None)
        assert rate is None

    def test_windows_file_with_quotes_blanks_and_byte_order_mark(self, csv):
        x, channels, _ = read_recording(csv('\r\n"ax", ay \r\n\r\n 1 ,"2"\r\n\r\n3,4', encoding="utf-8-sig"))
        assert channels == ("ax", "ay")
        assert x.tolist() == [[1, 2], [3, 4]]

    def test_one_column_and_one_row(self, csv):
        assert read_recording(csv("1\n2\n3\n")).x.tolist() == [[1], [2], [3]]
        assert read_recording(csv("1,2,3\n")).x.tolist() == [[1, 2, 3]]

    def test_channels_by_name_leave_out_text_and_keep_order(self, csv):
        path = csv("time,ax,ay\n10:00,1,2\n10:01,3,4\n")
        x, channels, _ = read_recording(path, channels=["ay", "ax"])
        assert channels == ("ay", "ax")
        assert x.tolist() == [[2, 1], [4, 3]]

    def test_channels_by_position(self, csv):
        assert read_recording(csv("1,2\n"), channels=["ax", "ay"]).x.tolist() == [[1, 2]]
        assert read_recording(csv("u,v\n1,2\n"), channels=["channel_0", "channel_1"]).x.tolist() == [[1, 2]]

    def test_missing_channel(self, csv):
        with pytest.raises(InputError, match=r"a\.csv has the columns ax, ay, but az is needed too; give a file"):
            read_recording(csv("ax,ay\n1,2\n"), channels=["ax", "az"])
        with pytest.raises(InputError, match=r"a\.csv has 2 channels, but 3 are needed \(u, v, w\); give a file"):
            read_recording(csv("1,2\n"), channels=["u", "v", "w"])

    @given(
        values=hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 6), st.integers(1, 4)),
            elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
        )
    )
    def test_round_trip_is_exact(self, tmp_path_factory, values):
        path = tmp_path_factory.mktemp("csv") / "a.csv"
        np.savetxt(path, values, delimiter=",", fmt="%.9g")
        np.testing.assert_array_equal(read_recording(path).x, values)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                "ax,ay\n1,2\n3,oops\n",
                "FILE, line 3, column 2 (ay) holds 'oops', but a number is needed; correct it, or leave out columns "
                "without numbers.",
            ),
            (
                "1,2\n\n3,\n",
                "FILE, line 3, column 2 is empty, but a number is needed; fill the gap, or cut the recording there.",
            ),
            (
                "1,2\n3,nan\n",
                "FILE, line 2, column 2 holds 'nan', but finite numbers are needed; fill the gap, or cut the recording "
                "there.",
            ),
            (
                "ax,ay\n1,2\n-inf,2\n",
                "FILE, line 3, column 1 (ax) holds '-inf', but finite numbers are needed; fill the gap, or cut the "
                "recording there.",
            ),
            ("1,2\n1e39,2\n", "FILE, line 2, column 1 holds '1e39', but float32 ends at 3.4e38; rescale the channel."),
            (
                "ax;ay\n1,5;2\n",
                "FILE, line 2, column 1 (ax) holds '1,5', but a number is needed; write decimals with a point.",
            ),
            (
                "1,2,3\n4,5\n",
                "FILE, line 2 has 2 fields, but 3 are needed as on line 1; complete it, or delete it if the file was "
                "cut off there.",
            ),
            (
                "a,b\n1,2,3\n4,5,6\n",
                "FILE, line 2 has 3 fields, but 2 are needed as on line 1; complete it, or delete it if the file was "
                "cut off there.",
            ),
            (
                "ax,ay\n\n",
                "FILE has a header but no rows, but one row at least is needed; record again or leave it out.",
            ),
            ("\n \n", "FILE holds blank lines only, but rows of numbers are needed; copy it again or leave it out."),
            ("", "FILE is empty (0 bytes), but data are needed; copy it again or leave it out."),
            ("ax,ax\n1,2\n", "FILE, line 1 names two columns 'ax', but channels need different names; rename one."),
            (
                ",ax\n0,2\n",
                "FILE, line 1 has no name for column 1, but every channel needs one; name it, or leave out a column of "
                "row numbers (pandas: `to_csv(index=False)`).",
            ),
            (
                "1,x\n0,2\n",
                "FILE, line 1 holds numbers and 'x', but numbers alone, or channel names alone, are needed; correct "
                "it.",
            ),
            (
                "1,2\n1_0,2\n",
                "FILE, line 2, column 1 holds '1_0', but a number is needed; correct it, or leave out columns without "
                "numbers.",
            ),
        ],
    )
    def test_refused(self, csv, text, sentence):
        refuses(csv(text), sentence)

    def test_fault_in_an_unwanted_column_does_not_matter_but_a_short_line_does(self, csv):
        assert read_recording(csv("ax,note\n1,\n2,x\n"), channels=["ax"]).x.tolist() == [[1], [2]]
        with pytest.raises(InputError, match=r"line 3 has 1 fields, but 2 are needed as on line 1"):
            read_recording(csv("note,ax\n1,2\n3\n"), channels=["ax"])

    @pytest.mark.parametrize(
        "data", [b"\xff\xfe1\x00,\x002\x00", b"1,2\n3,\xff\n", b"a\n1\n" + b"x" * 200_000 + b"\xff"]
    )
    def test_not_text(self, tmp_path, data):
        path = tmp_path / "a.csv"
        path.write_bytes(data)
        refuses(path, "FILE is not UTF-8 text, but a .csv file has to be; save it again as UTF-8.")


class TestArrays:
    def test_npy(self, tmp_path):
        np.save(tmp_path / "a.npy", VALUES.astype(np.float64))
        x, channels, rate = read_recording(tmp_path / "a.npy")
        np.testing.assert_array_equal(x, VALUES)
        assert (x.dtype, channels, rate) == (np.float32, None, None)
        assert x.flags.writeable

    @pytest.mark.parametrize("values", [np.arange(5), np.array([True, False]), np.asfortranarray(VALUES)])
    def test_types_orders_and_one_axis(self, tmp_path, values):
        np.save(tmp_path / "a.npy", values)
        expected = values.reshape(len(values), -1).astype(np.float32)
        np.testing.assert_array_equal(read_recording(tmp_path / "a.npy").x, expected)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_npz(self, tmp_path, save):
        save(tmp_path / "a.npz", x=VALUES)
        np.testing.assert_array_equal(read_recording(tmp_path / "a.npz").x, VALUES)

    def test_channel_count_is_held_against_the_wanted_ones(self, tmp_path):
        np.save(tmp_path / "a.npy", VALUES)
        with pytest.raises(InputError, match=r"a\.npy has 3 channels, but 2 are needed \(ax, ay\)"):
            read_recording(tmp_path / "a.npy", channels=["ax", "ay"])

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (
                np.zeros((0, 3)),
                "FILE has no rows, but at least one step of one channel is needed; record again or leave it out.",
            ),
            (
                np.zeros((3, 0)),
                "FILE has no channels, but at least one step of one channel is needed; record again or leave it out.",
            ),
            (
                np.zeros((2, 3, 4)),
                "FILE holds an array of shape (2, 3, 4), but (length, channels) or (length,) is needed; save one "
                "recording a file, with time on the first axis.",
            ),
            (
                np.zeros(3, complex),
                "FILE holds values of type complex128, but real numbers are needed; convert them before saving.",
            ),
            (
                np.array(["1", "2"]),
                "FILE holds values of type <U1, but real numbers are needed; convert them before saving.",
            ),
            (
                np.array([[1.0, 2.0], [3.0, np.nan]]),
                "FILE, row 1 (counted from 0), channel 1 holds nan, but numbers that are finite in float32 are needed; "
                "fill the gap, or cut the recording there.",
            ),
            (
                np.array([1.0, 1e39]),
                "FILE, row 1 (counted from 0), channel 0 holds 1e+39, but numbers that are finite in float32 are "
                "needed; fill the gap, or cut the recording there.",
            ),
        ],
    )
    def test_refused(self, tmp_path, values, sentence):
        np.save(tmp_path / "a.npy", values)
        refuses(tmp_path / "a.npy", sentence)

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_pickles_are_never_opened(self, tmp_path, suffix):
        """The pickle would write a file; a refusal by its name alone would leave this test green, so it is run once."""
        trace = tmp_path / "trace"

        class Attack:
            def __reduce__(self):
                return open, (str(trace), "w")

        array = np.array([Attack()], dtype=object)
        path = tmp_path / f"a{suffix}"
        (np.save if suffix == ".npy" else np.savez)(path, array)
        refuses(
            path,
            "FILE holds pickled Python objects, which can run any code, but an array of plain numbers is needed; save "
            "it again with `np.save(path, array.astype(float), allow_pickle=False)`.",
        )
        plain = tmp_path / f"b{suffix}"
        plain.write_bytes(pickle.dumps(Attack()))
        with pytest.raises(InputError, match="holds pickled Python objects, which can run any code"):
            read_recording(plain)
        assert not trace.exists()
        pickle.loads(plain.read_bytes()).close()
        assert trace.exists()

    def test_cut_off_npy(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, VALUES)
        path.write_bytes(path.read_bytes()[:-3])
        refuses(
            path,
            "FILE cannot be read as a numpy array (mmap length is greater than file size), but a whole .npy file is "
            "needed; it may be cut off or of another kind, so copy or save it again.",
        )

    @pytest.mark.parametrize("cut", [1, 6, 10, 40, 100])
    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_cut_off_anywhere(self, tmp_path, suffix, cut):
        path = tmp_path / f"a{suffix}"
        (np.save if suffix == ".npy" else np.savez)(path, VALUES)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(InputError, match=r"cannot be read as a numpy array .* whole \.np. file is needed"):
            read_recording(path)

    def test_damaged_npz(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez_compressed(path, x=np.arange(1000.0))
        data = bytearray(path.read_bytes())
        data[100:120] = bytes(20)
        path.write_bytes(bytes(data))
        with pytest.raises(InputError, match=r"cannot be read as a numpy array"):
            read_recording(path)

    def test_npz_with_several_arrays(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=VALUES, y=VALUES)
        refuses(tmp_path / "a.npz", "FILE holds x, y, but one array is needed; save one recording a file.")
        with zipfile.ZipFile(tmp_path / "b.npz", "w"):
            pass
        refuses(tmp_path / "b.npz", "FILE holds no arrays, but one array is needed; save one recording a file.")


def pcm(samples, bits):
    """Whole numbers as little-endian samples."""
    if bits == 8:
        return (samples + 128).astype(np.uint8).tobytes()
    if bits == 24:
        return samples.astype("<i4").view(np.uint8).reshape(*samples.shape, 4)[..., :3].tobytes()
    return samples.astype(f"<i{bits // 8}").tobytes()


def riff(code, channels, rate, bits, data, extension=b""):
    """A WAV file written by hand, for what the standard library does not write."""
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits) + extension
    body = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


class TestWave:
    @pytest.mark.parametrize("bits", [8, 16, 24, 32])
    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_pcm_as_the_standard_library_writes_it(self, tmp_path, bits, channels):
        top = 2 ** (bits - 1)
        samples = np.array([-top, -1, 0, 1, top // 2, top - 1] * channels).reshape(-1, channels)
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(bits // 8)
            file.setframerate(8000)
            file.writeframes(pcm(samples, bits))
        x, names, rate = read_recording(tmp_path / "a.wav")
        assert (x.dtype, names, rate) == (np.float32, None, 8000.0)
        np.testing.assert_array_equal(x, (samples / top).astype(np.float32))

    def test_extensible_header_and_other_chunks(self, tmp_path):
        samples = np.array([[1, -2], [3, -4]])
        guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
        data = riff(0xFFFE, 2, 44100, 24, pcm(samples, 24), struct.pack("<HHI", 22, 24, 3) + guid)
        data = data[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + data[12:]
        (tmp_path / "a.wav").write_bytes(data)
        x, _, rate = read_recording(tmp_path / "a.wav")
        np.testing.assert_array_equal(x, samples.astype(np.float32) / 2**23)
        assert rate == 44100

    @pytest.mark.parametrize("bits", [32, 64])
    def test_floating_point(self, tmp_path, bits):
        (tmp_path / "a.wav").write_bytes(riff(3, 3, 16000, bits, VALUES.astype(f"<f{bits // 8}").tobytes()))
        np.testing.assert_array_equal(read_recording(tmp_path / "a.wav").x, VALUES)

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            (b"ID3 and more", "FILE does not begin as a WAV file does; convert it to a WAV file, or rename it."),
            (
                riff(1, 1, 8000, 16, b"\0" * 20)[:-4],
                "FILE announces 20 bytes of 'data', but 16 are there; the file was cut off, so copy or record it "
                "again.",
            ),
            (
                riff(1, 1, 8000, 16, b"")[:36],
                "FILE has no format or no samples, but a WAV file needs both; it may be cut off: copy it again.",
            ),
            (
                riff(6, 1, 8000, 8, b"\0\0"),
                "FILE holds samples of 8 bits in format 6, but PCM of 8, 16, 24 or 32 bits or floating point is "
                "needed; convert it to 16-bit PCM.",
            ),
            (
                riff(1, 2, 8000, 16, b"\0" * 6),
                "FILE ends within a sample, but whole samples are needed; it may be cut off: copy it again.",
            ),
            (
                riff(1, 1, 8000, 16, b""),
                "FILE has no rows, but at least one step of one channel is needed; record again or leave it out.",
            ),
            (
                riff(3, 1, 8000, 32, struct.pack("<ff", 0.0, float("nan"))),
                "FILE, row 1 (counted from 0), channel 0 holds nan, but numbers that are finite in float32 are needed; "
                "fill the gap, or cut the recording there.",
            ),
        ],
    )
    def test_refused(self, tmp_path, data, sentence):
        (tmp_path / "a.wav").write_bytes(data)
        refuses(tmp_path / "a.wav", sentence)


class TestParquet:
    @pytest.fixture
    def parquet(self, tmp_path):
        import pyarrow
        from pyarrow import parquet

        def write(**columns):
            parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
            return tmp_path / "a.parquet"

        return write

    def test_columns(self, parquet):
        x, channels, rate = read_recording(parquet(ax=[0.5, 3.25], ay=[-1, 4], on=[True, False]))
        assert (channels, rate) == (("ax", "ay", "on"), None)
        assert x.tolist() == [[0.5, -1, 1], [3.25, 4, 0]]

    def test_channels_by_name(self, parquet):
        x, channels, _ = read_recording(parquet(time=["a", "b"], ax=[1, 2], ay=[3, 4]), channels=["ay", "ax"])
        assert channels == ("ay", "ax")
        assert x.tolist() == [[3, 1], [4, 2]]

    def test_row_labels_of_pandas_are_no_channel(self, tmp_path):
        import pandas

        pandas.DataFrame({"ax": [1.0, 2.0]}, index=[5, 7]).to_parquet(tmp_path / "a.parquet")
        x, channels, _ = read_recording(tmp_path / "a.parquet")
        assert channels == ("ax",)
        assert x.tolist() == [[1], [2]]

    @pytest.mark.parametrize(
        ("columns", "sentence"),
        [
            (
                {"time": ["a"], "ax": [1]},
                "FILE, column time holds values of type object, but numbers are needed; correct it, or leave out "
                "columns without numbers.",
            ),
            (
                {"ax": [1, None]},
                "FILE, row 1 (counted from 0), channel 0 holds nan, but numbers that are finite in float32 are needed; "
                "fill the gap, or cut the recording there.",
            ),
            (
                {"ax": np.zeros(0)},
                "FILE has no rows, but at least one step of one channel is needed; record again or leave it out.",
            ),
        ],
    )
    def test_refused(self, parquet, columns, sentence):
        refuses(parquet(**columns), sentence)

    def test_no_columns(self, parquet):
        refuses(
            parquet(),
            "FILE has no columns, but one channel at least is needed; save the recording with its channels as columns.",
        )

    def test_cut_off(self, parquet):
        path = parquet(ax=[1.0] * 100)
        path.write_bytes(path.read_bytes()[:-10])
        refuses(
            path,
            "FILE cannot be read as Parquet, but a whole Parquet file is needed; it may be cut off or of another "
            "kind, so copy or save it again.",
        )

    def test_without_the_package(self, parquet, monkeypatch):
        path = parquet(ax=[1.0])
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        refuses(
            path,
            "a Parquet file was given, but reading one needs the package pyarrow; run `pip install "
            "'longstate[data]'`, or save the table as CSV.",
        )


class TestAnyFile:
    def test_missing(self, tmp_path):
        refuses(tmp_path / "a.csv", "FILE is not a file, but a file is needed; correct the path.")
        refuses(tmp_path, "FILE is not a file, but a file is needed; correct the path.")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz", ".wav"])
    def test_empty(self, tmp_path, suffix):
        (tmp_path / f"a{suffix}").touch()
        refuses(tmp_path / f"a{suffix}", "FILE is empty (0 bytes), but data are needed; copy it again or leave it out.")

    @pytest.mark.parametrize(("name", "said"), [("a.pkl", "'.pkl'"), ("a", "'no suffix'")])
    def test_unknown_suffix(self, tmp_path, name, said):
        (tmp_path / name).write_bytes(pickle.dumps([1.0]))
        refuses(
            tmp_path / name,
            f"FILE ends in {said}, but recordings are read from .csv, .tsv, .parquet, .npy, .npz, .wav; convert it to "
            "one of these.",
        )

    def test_suffix_in_capitals(self, tmp_path):
        np.save(tmp_path / "a.npy", VALUES)
        (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
        np.testing.assert_array_equal(read_recording(tmp_path / "a.NPY").x, VALUES)
