"""Take the picture of the quick start that the README shows: `python tools/templates/screenshot.py`. Needs what
build.py needs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the server and the browser are those of the tests

from e2e.browser import closing_page, launched, open_editor  # noqa: E402
from workflows.installed import NAME, serve  # noqa: E402

PICTURE = ROOT / "js" / "docs" / "quick_start.jpg"
SIZE = {"width": 1600, "height": 720}
DRAWN = "() => app.rootGraph.nodes.find(node => node.type === 'SaveImage')?.imgs?.[0]?.naturalWidth"
FIT = "app.extensionManager.command.execute('Comfy.Canvas.FitView')"
PLAIN = """async () => {
    const set = app.extensionManager.setting.set;
    await set("Comfy.RightSidePanel.IsOpen", false);
    await set("Comfy.Minimap.Visible", false);
    await set("Comfy.Execution.PreviewMethod", "none");
}"""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder)) as server,
        launched() as browser,
        closing_page(browser, viewport=SIZE) as page,
    ):
        open_editor(page, server)
        page.evaluate(PLAIN)
        open_editor(page, server, f"?template=SANA-quick-start&source={NAME}")
        page.wait_for_function("() => app.rootGraph.nodes.some(node => node.isSubgraphNode())")
        page.get_by_test_id("queue-button").click()
        page.wait_for_function(DRAWN)
        page.evaluate(FIT)
        page.wait_for_timeout(6000)  # messages go away
        shot = Path(folder) / "shot.png"
        page.screenshot(path=str(shot))
        Image.open(shot).convert("RGB").save(PICTURE, quality=88)


if __name__ == "__main__":
    main()
