"""HEIC and AVIF: read where the extra is installed, named where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from imgcls.data.datasets.folders.scan import Scan
from imgcls.data.pixels import decoding, opening
from imgcls.data.pixels.view import View
from imgcls.errors import DataError

needs_extra = pytest.mark.skipif(not opening.HAS_HEIF, reason="pillow-heif is not installed")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tuple(suffix for suffix in opening.SUFFIXES if suffix not in opening.HEIF_SUFFIXES)
    monkeypatch.setattr("imgcls.data.datasets.folders.scan.SUFFIXES", plain)
    Path("photos").mkdir()
    for name in ("a.heic", "b.HEIF", "c.avif", "d.txt"):
        Path("photos", name).touch()
    scan = Scan()
    assert scan.images("photos") == []
    assert scan.notes() == (
        "ignored  1 .avif, 1 .heic, 1 .heif, 1 .txt (not image files by their suffix; "
        "pip install 'imgcls[heif]' to read HEIC and AVIF)",
    )


@needs_extra
@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_a_photo_from_a_phone_is_read(suffix: str) -> None:
    import pillow_heif

    opening._formats()
    image = Image.fromarray(np.full((40, 60, 3), (200, 30, 40), np.uint8))
    if suffix == ".heic":
        pillow_heif.from_pillow(image).save("photo.heic", quality=-1)
    else:
        image.save("photo.avif", quality=95)
    assert decoding.header(f"photo{suffix}") == (40, 60, False)
    found = decoding.load_image(f"photo{suffix}", View(3, 8, 8))
    assert np.abs(found.astype(int) - (200, 30, 40)).max() < 12


@needs_extra
def test_a_corrupt_photo_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.heic").write_bytes(b"ftypheic" * 10)
    with pytest.raises(DataError, match=r"not a readable image: bad\.heic"):
        decoding.load_image("bad.heic", View(3, 8, 8))
    assert main(["data", "./nowhere"]) == 3
