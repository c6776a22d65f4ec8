"""What callers hand to an encoder is taken as it is, or refused by the name of its argument."""

import io
import struct
import sys
from zlib import compress, crc32

import numpy as np
import pandas
import pytest
from PIL import Image

from colport import Encoder
from colport.base.errors import ConfigError, InputError
from colport.families.pages.images import PageError, as_page
from colport.runtime.remote import open_encoder, run_in

HALF = "a \ud83d b"


@pytest.fixture(scope="module")
def passages(exported):
    return Encoder(exported["colbert"])


@pytest.fixture(scope="module")
def pages(exported):
    return Encoder(exported["colqwen2"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("abc", TypeError, "queries: found str; allowed is a list"),
        (b"abc", TypeError, "queries: found bytes"),
        (None, TypeError, "queries: found NoneType"),
        (7, TypeError, "queries: found int"),
        ({0: "a"}, TypeError, "queries: found dict"),
        ({"a"}, TypeError, "queries: found set"),
        (np.array("a"), TypeError, "queries: found ndarray"),
        (np.array([["a"]]), TypeError, "queries: found ndarray"),
        (["a", None], TypeError, r"queries\[1\]: found None; allowed is a text"),
        (["a", float("nan")], TypeError, r"queries\[1\]: found float"),
        (["a", b"b"], TypeError, r"queries\[1\]: found bytes"),
        (["a", ["b", "c"]], TypeError, r"queries\[1\]: found list"),
        (["a", "b", HALF], InputError, r"queries\[2\]: holds half a surrogate .*U\+D83D.* 3"),
    ],
)
def test_queries_that_are_none(passages, given, error, message):
    with pytest.raises(error, match=message):
        passages.encode_queries(given, batch_size=2)


def test_every_sequence_of_texts_is_read_in_its_order(passages):
    texts = ["one", "another one", "and a third"]
    expected = passages.encode_queries(texts)
    series = pandas.Series(texts, index=[2, 0, 1])  # its keys are another order
    for given in (tuple(texts), iter(texts), np.array(texts), np.array(texts, object), series):
        found = passages.encode_queries(given, batch_size=2)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert passages.encode_queries([]) == []


@pytest.mark.parametrize(
    ("given", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError), (True, TypeError)],
)
def test_numbers_are_checked(passages, exported, given, error):
    for inputs in (["a"], []):
        with pytest.raises(error, match="batch_size: found"):
            passages.encode_queries(inputs, batch_size=given)
        with pytest.raises(error, match="batch_size: found"):
            passages.encode_documents(inputs, batch_size=given)
    with pytest.raises(error, match="threads: found"):
        Encoder(exported["colbert"], threads=given)
    assert len(passages.encode_queries(["a", "b"], batch_size=np.int64(1))) == 2
    with pytest.raises(ValueError, match=r"batch_size: found \d+; .* from 1 to 2147483647"):
        passages.encode_queries(["a"], batch_size=2**70)


@pytest.mark.parametrize("threads", [0, 1025, 10**6, 2**70])
def test_no_thread_or_so_many_are_refused_before_they_start(exported, threads):
    with pytest.raises(ValueError, match=r"^threads: found \d+; .* whole number from 1 to 1024\.$"):
        Encoder(exported["colbert"], threads=threads)
    for key in ("threads", "inter_op_threads"):
        with pytest.raises(ConfigError, match=rf"{key}: found .* whole number from 1 to 1024"):
            Encoder(exported["colbert"], {"type": "cpu", key: threads})


@pytest.mark.parametrize("found", ["no", 1, None])
def test_a_switch_is_true_or_false(exported, found):
    with pytest.raises(TypeError, match=r"^share_weights: found \w+; allowed is True or False\.$"):
        Encoder(exported["colbert"], share_weights=found)
    Encoder(exported["colbert"], share_weights=np.bool_(True))


@pytest.mark.parametrize("method", ["run", "run_on_device"])
def test_what_is_run_was_prepared(passages, method):
    for found in (None, "text", {"input_ids": []}):
        with pytest.raises(TypeError, match=r"^batch: found .*; allowed is a prepared Batch"):
            getattr(passages, method)(found)


def test_one_batch_is_checked_as_a_list_is(passages):
    for call in (passages.prepare_queries, passages.prepare_documents):
        for given in ("abc", {0: "a"}, 7, None):
            with pytest.raises(
                TypeError, match=r"(queries|documents): found \w+; allowed is a list"
            ):
                call(given)


def test_embeddings_are_lists_of_real_numbers(passages):
    right = [np.eye(3, 8, dtype=np.float32)]
    for bad in (right[0] * 1j, right[0].astype(object), "abc"):
        for index, given in enumerate([([*right, bad], right), (right, [*right, bad])]):
            kind = ("query", "document")[index]
            with pytest.raises(TypeError, match=rf"of {kind} 1 are .*allowed are real numbers"):
                passages.score(*given)
    with pytest.raises(TypeError, match="of each query: found generator"):
        passages.score((array for array in right), right)
    assert passages.score([right[0].tolist()], [right[0].astype(">f8")]) == [[3]]


def test_a_folder_and_a_provider_that_are_none(exported, monkeypatch):
    for given in (None, 7, b"folder"):
        with pytest.raises(TypeError, match=r"folder: found \w+; allowed is a path"):
            Encoder(given)
    for given in (None, 7, ["cpu"]):
        with pytest.raises(ConfigError, match=r"provider: found \w+; allowed is a type"):
            Encoder(exported["colbert"], given)
    monkeypatch.setenv("HOME", str(exported["colbert"].parent))
    assert Encoder(f"~/{exported['colbert'].name}").dim


def test_documents_that_are_none(passages, pages, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "page.png")
    closed = Image.open(tmp_path / "page.png")
    closed.close()
    page = Image.new("RGB", (60, 60))
    for encoder, given, message in (
        (passages, [page], r"documents\[0\]: found Image; allowed is a text"),
        (pages, ["page.png"], r"documents\[0\]: found str; allowed is a Pillow image"),
        (pages, [np.zeros((9, 9, 3), np.uint8)], r"documents\[0\]: found ndarray"),
        (pages, page, "documents: found Image; allowed is a list"),
    ):
        with pytest.raises(TypeError, match=message):
            encoder.encode_documents(given)
    for bad, message in (
        (closed, "cannot be decoded .*closed"),
        (Image.new("RGB", (0, 5)), "is a page of 0x5 pixels"),
        (Image.new("F", (60, 60)), "is an image of mode F"),
        (Image.new("RGB", (2010, 10)), "page of 2010x10 pixels: sides may differ at most 200"),
    ):
        with pytest.raises(InputError, match=rf"documents\[3\]: .*{message}"):
            pages.encode_documents([page, page, page, bad], batch_size=2)
    with pytest.raises(InputError, match=r"documents\[1\]: holds half"):
        passages.encode_documents(["a", HALF])


def test_another_python_takes_and_refuses_the_same(passages, exported):
    given = ("queries", ["a", HALF], "passages", [3, 4])
    with pytest.raises(InputError, match=r"queries\[4\]: holds half") as refused:
        run_in(sys.executable, "colport.families.inputs:checked", *given)
    assert (refused.value.argument, refused.value.index) == ("queries", 4)
    remote = open_encoder(exported["colbert"], {"type": "cpu", "python": sys.executable})
    for given, error in (({"a"}, TypeError), ([None], TypeError), ([HALF], InputError)):
        with pytest.raises(error, match="queries"):
            remote.encode_queries(given)
    np.testing.assert_array_equal(
        remote.encode_queries(np.array(["a"]))[0], passages.encode_queries(["a"])[0]
    )


def gradient() -> np.ndarray:
    return np.tile(np.linspace(0, 255, 32).astype(np.uint8), (20, 1))


def opened(image: Image.Image, kind: str, **options) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


def grey16(byte_order: str) -> Image.Image:
    values = gradient().astype(np.uint16) * 257
    if byte_order == "little":
        return Image.fromarray(values)
    return Image.frombytes("I;16B", (32, 20), values.astype(">u2").tobytes())


GREY16 = {
    "little": lambda: grey16("little"),
    "big": lambda: grey16("big"),
    "PNG": lambda: opened(grey16("little"), "PNG"),
    "TIFF": lambda: opened(grey16("little"), "TIFF"),
    "TIFF, big": lambda: opened(grey16("big"), "TIFF"),
    "TIFF, white is zero": lambda: opened(
        Image.fromarray(65535 - gradient().astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0}
    ),
    "PGM": lambda: opened(grey16("little"), "PPM"),
}


@pytest.mark.parametrize("name", GREY16)
def test_grey_of_16_bits_is_scaled(name):
    page = as_page(GREY16[name]())
    assert page.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(page), np.repeat(gradient()[:, :, None], 3, axis=2))


def test_grey_of_12_bits_is_scaled():
    values = np.tile(np.arange(0, 4096, 273, dtype=np.uint16), (4, 1))  # 16 columns up to 4095
    first, second = values.reshape(-1)[::2], values.reshape(-1)[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    raw = Image.frombytes("L", (24, 4), packed.astype(np.uint8).tobytes())
    stream = io.BytesIO()
    raw.save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    tags = int.from_bytes(content[4:8], "little")
    for entry in range(int.from_bytes(content[tags : tags + 2], "little")):
        place = tags + 2 + 12 * entry
        changes = {256: 16, 258: 12}  # width, bits a sample
        if (tag := int.from_bytes(content[place : place + 2], "little")) in changes:
            content[place + 8 : place + 10] = changes[tag].to_bytes(2, "little")
    image = Image.open(io.BytesIO(bytes(content)))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(as_page(image))[0, :, 0], np.arange(0, 256, 17))


def over_white(alpha: np.ndarray) -> np.ndarray:
    """Black of an opacity."""
    return np.repeat((255 - alpha)[:, :, None], 3, axis=2)


def with_alpha(mode: str) -> Image.Image:
    """Black, the less transparent the farther right."""
    image = Image.new("P" if mode == "PA" else "RGB", (32, 20))
    image.putalpha(Image.fromarray(gradient()))
    return image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_what_is_transparent_lies_over_white(mode):
    image = with_alpha(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(as_page(image)), over_white(gradient()))


def test_a_transparent_colour_is_white():
    halves = Image.new("L", (8, 8))
    halves.paste(200, (0, 0, 4, 8))
    wide = np.zeros((8, 8), np.uint16)
    wide[:, :4] = 51400
    for image, key in (
        (halves, 0),
        (halves.convert("1"), 0),
        (halves.convert("P"), 0),
        (halves.convert("RGB"), (0, 0, 0)),
        (Image.fromarray(wide), 0),
    ):
        for found in (opened(image, "PNG", transparency=key), image.copy()):
            found.info["transparency"] = key
            row = np.asarray(as_page(found))[0, :, 0].tolist()
            assert row == [255 if image.mode == "1" else 200] * 4 + [255] * 4, image.mode
    palette = with_alpha("RGBA").quantize(8)
    assert palette.palette.mode == "RGBA"
    assert np.asarray(as_page(palette)).max() > 240


def png(row: bytes, depth: int, kind: int, key: bytes) -> Image.Image:
    """A PNG file of four pixels in a row, with a transparent value."""

    def chunk(name: bytes, content: bytes) -> bytes:
        content = name + content
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", crc32(content))

    header = struct.pack(">IIBBBBB", 4, 1, depth, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", key), (b"IDAT", compress(b"\0" + row)), (b"IEND", b"")
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)))


@pytest.mark.parametrize(("depth", "row"), [(2, b"\x1b"), (4, b"\x05\xaf")])
def test_a_transparent_value_of_few_bits_is_that_of_its_pixels(depth, row):
    for index in range(4):  # values are 0, 1/3, 2/3 and 1
        key = struct.pack(">H", index * (2**depth - 1) // 3)
        image = png(row, depth, 0, key)
        expected = [255 if place == index else 85 * place for place in range(4)]
        for _ in range(2):  # it is read once
            assert np.asarray(as_page(image))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("level", [0, 200, 65535])
def test_a_transparent_colour_of_16_bits_is_named(level):
    image = png(struct.pack(">12H", *range(12)), 16, 2, struct.pack(">3H", *[level] * 3))
    for _ in range(2):
        with pytest.raises(PageError, match=rf"16 bits whose transparent colour \({level}, "):
            as_page(image)


def test_a_transparency_that_is_none_is_named():
    image = Image.new("RGB", (8, 8))
    image.info["transparency"] = b"\0"
    with pytest.raises(PageError, match="cannot be decoded"):
        as_page(image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_modes_of_8_bits_are_what_pillow_makes_of_them(mode):
    image = Image.fromarray(np.repeat(gradient()[:, :, None], 3, axis=2))
    image = image.convert(mode)
    found = as_page(image)
    # Pixels alone: of LAB, Pillow makes a colour profile that holds the second of its making.
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_white_are_refused(mode):
    with pytest.raises(PageError, match=f"is an image of mode {mode}, whose black and white"):
        as_page(Image.fromarray(gradient()).convert(mode))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pages_are_turned_upright(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the quarter at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, turned back
    image = Image.fromarray(upright)
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {} if kind in ("PNG", "TIFF") else {"quality": 100}
    page = as_page(opened(image, kind, exif=exif, **quality))
    assert page.size == (32, 16)
    assert np.abs(np.asarray(page).astype(int) - upright).max() < 40
    assert as_page(page).size == (32, 16)


def test_an_encoder_reads_pages_as_a_dataset_does(pages):
    sideways = Image.fromarray(gradient()).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    given = [with_alpha("RGBA"), opened(sideways, "PNG", exif=exif), grey16("big")]
    expected = pages.encode_documents([as_page(image) for image in given])
    for one, other in zip(pages.encode_documents(given), expected, strict=True):
        np.testing.assert_array_equal(one, other)
