"""PDFs written by hand, as small as PDFium reads them: pages with one line of text each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_ID = bytes(16)
_NO_PERMISSION = -64


def pdf(
    texts: Sequence[str],
    *,
    size: tuple[float, float] = (200, 300),
    password: str | None = None,
    missing_page: int | None = None,
    drawing: bytes | None = None,
) -> bytes:
    """A PDF with a page for each text.

    Args:
        texts: A line of ASCII a page, in black on white.
        size: Width and height of the pages in points.
        password: What the file asks for when it is opened.
        missing_page: The object of this page is left out.
        drawing: The stream of each page, dictionary included, in place of its text.
    """
    first = 4
    pages = [first + 2 * number for number in range(len(texts))]
    kids = " ".join(f"{page} 0 R" for page in pages)
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Count {len(texts)} /Kids [{kids}] >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for number, (page, text) in enumerate(zip(pages, texts, strict=True)):
        line = f"BT /F1 24 Tf 20 {size[1] / 2:g} Td ({text}) Tj ET"
        if number != missing_page:
            objects[page] = (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]:g} {size[1]:g}] "
                f"/Resources << /Font << /F1 3 0 R >> >> /Contents {page + 1} 0 R >>"
            ).encode()
        objects[page + 1] = (
            drawing or f"<< /Length {len(line)} >>\nstream\n{line}\nendstream".encode()
        )
    out, offsets = b"%PDF-1.4\n", {}
    for number, body in objects.items():
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start, count = len(out), max(objects) + 1
    out += f"xref\n0 {count}\n0000000000 65535 f \n".encode()
    for number in range(1, count):
        kind = "n" if number in offsets else "f"
        out += f"{offsets.get(number, 0):010d} 00000 {kind} \n".encode()
    lock = (
        f" /Encrypt {_encryption(password)} /ID [<{_ID.hex()}> <{_ID.hex()}>]" if password else ""
    )
    out += f"trailer\n<< /Size {count} /Root 1 0 R{lock} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return out


def _encryption(password: str) -> str:
    """The dictionary of the standard handler, revision 2 (PDF 1.7, 7.6.3: algorithms 2, 3 and 4).

    Only the password is checked against it; the streams stay as they are.
    """
    padded = (password.encode() + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = _NO_PERMISSION.to_bytes(4, "little", signed=True)
    key = hashlib.md5(padded + owner + permissions + _ID).digest()[:5]
    user = _rc4(key, _PADDING)
    return (
        f"<< /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> "
        f"/P {_NO_PERMISSION} >>"
    )


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
