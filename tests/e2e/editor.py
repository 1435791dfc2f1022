"""What tests do in ComfyUI's editor: open templates, choose the renderer, measure what is on the screen."""

from e2e.browser import open_editor
from workflows.installed import NAME
from workflows.templates import load

VUE = "Comfy.VueNodes.Enabled"
LOADED = "titles => titles.every(title => app.rootGraph.nodes.some(node => (node.title ?? node.type) === title))"
RECTANGLES = """() => [
    ...app.canvas.graph.nodes, app.canvas.graph.inputNode, app.canvas.graph.outputNode
].filter(node => node).map(node => {
    const element = LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
    if (element) {
        const { left, top, right, bottom } = element.getBoundingClientRect();
        return [node.title, left, top, right, bottom];
    }
    const [x, y, width, height] = node.getBounding?.() ?? node.boundingRect, { scale, offset } = app.canvas.ds;
    const at = (value, axis) => (value + offset[axis]) * scale;
    return [node.title ?? 'inputs or outputs', at(x, 0), at(y, 1), at(x + width, 0), at(y + height, 1)];
})"""
"""Of all nodes of the graph in view, in pixels on the screen: [title, left, top, right, bottom]."""
SUBGRAPH = "app.rootGraph.nodes.find(node => node.isSubgraphNode())"
INSIDE = f"() => {{ const node = {SUBGRAPH}; app.canvas.openSubgraph(node.subgraph, node); }}"
LETTERS = """() => [...document.querySelectorAll('textarea')].filter(box => box.offsetParent && box.value).map(box => {
    const { width, height } = box.getBoundingClientRect();
    const letters = parseFloat(getComputedStyle(box).fontSize) * width / box.offsetWidth;
    return { text: box.value, width, height, letters };
})"""
"""Of the text boxes on the screen: their text, size and height of letters in pixels."""

PICTURE = """() =>
    [...document.querySelectorAll('img')].some(image => image.src.includes('filename=SANA') && image.naturalWidth)
    || app.rootGraph.nodes.some(node => node.type === 'SaveImage' && node.imgs?.[0]?.naturalWidth)"""
"""Is a finished picture on the screen?"""


def choose_renderer(page, vue):
    """The server remembers it: call with False at the end."""
    page.evaluate("([name, on]) => app.extensionManager.setting.set(name, on)", [VUE, vue])


def open_template(page, server, name):
    open_editor(page, server, f"?template={name}&source={NAME}")
    page.wait_for_function(LOADED, arg=[node["title"] for node in load(name)["nodes"] if "title" in node])


def set_on_subgraph(page, label, value):
    """A value of a widget that the subgraph of the open template shows."""
    page.wait_for_timeout(1500)  # the editor may still set the template's own values
    page.evaluate(
        f"([label, value]) => {{ {SUBGRAPH}.widgets.find(widget => widget.name === label).value = value; }}",
        [label, value],
    )


def overlaps(page):
    """Pairs of nodes that cover one another by more than a pixel."""
    boxes = page.evaluate(RECTANGLES)
    return [
        (one[0], other[0])
        for index, one in enumerate(boxes)
        for other in boxes[index + 1 :]
        if min(one[3], other[3]) - max(one[1], other[1]) > 1 and min(one[4], other[4]) - max(one[2], other[2]) > 1
    ]
