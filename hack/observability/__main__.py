"""Tell the story on a lab of its own and draw the dashboards: python -m hack.observability"""

from __future__ import annotations

import sys

from hack.generate import panels
from hack.generate.files import ROOT
from hack.observability.pictures import draw
from hack.observability.story import Story
from hack.running import temporary_lab

PICTURES = ROOT / "docs" / "pictures"


def main() -> int:
    """Writes docs/pictures/*.png."""
    with (
        temporary_lab("observability", workers=2, report=print) as lab,
        Story.begin(lab, report=print) as story,
    ):
        story.tell()
        for dashboard in panels.ALL:
            path = PICTURES / f"{dashboard.uid}.png"
            draw(dashboard, story.prometheus, path, start=story.settled, end=story.now)
            print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
