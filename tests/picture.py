"""Draw the picture in the README: the report of the bundled sample, as Chromium shows it.

python -m tests.picture
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from jobs.imagenet import main as imagenet
from tests.commands import ROOT

PICTURE = ROOT / "jobs" / "sample" / "report.png"


def main() -> None:
    """Run the sample, open its page, and keep the top of it."""
    with tempfile.TemporaryDirectory() as out:
        sample = Path("/tmp/digits")  # whose name the page shows, and no place on this machine
        shutil.copytree(ROOT / "jobs" / "sample", sample, dirs_exist_ok=True)
        imagenet(["--data", str(sample / "images"), "--model", str(sample / "model"), "--out", f"{out}/run", "--device", "cpu"])
        shutil.rmtree(sample)
        browser = shutil.which("chromium")
        assert browser, "apt-get install chromium"
        offline = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        page = f"--screenshot={out}/page.png", "--window-size=1180,1250", f"file://{out}/run/report.html"
        subprocess.run([browser, *offline, f"--user-data-dir={out}/browser", *page], check=True, capture_output=True)
        with Image.open(Path(out) / "page.png") as picture:
            picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
