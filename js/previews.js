// @ts-check
// Previews of this pack's nodes. The editor leaves the last one beside the finished picture, and after a cancel: they are taken off when a
// run ends. The classic canvas shows none on a subgraph: they are put there.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = /^SanaNative/;
const PREVIEW_WIDGET = "$$canvas-image-preview"; // of the classic canvas
const ENDS = ["execution_success", "execution_interrupted", "execution_error"];
const shown = new Set();
const onSubgraphs = new Map(); // node -> widget

/** The node of an execution id: "4:7" is node 7 in the subgraph node 4. @param {string} id */
function nodeOf(id) {
  const [first, ...rest] = id.split(":");
  return rest.reduce((node, inner) => node?.subgraph?.getNodeById(inner), app.rootGraph.getNodeById(first));
}

/** The editor's store of outputs and previews, which has no public name. */
function store() {
  const vue = /** @type {any} */ (document.getElementById("vue-app"))?.__vue_app__;
  return vue?.config.globalProperties.$pinia?._s?.get("nodeOutput");
}

/** Show a picture on a subgraph in the classic canvas. @param {any} node @param {Blob} picture */
function put(node, picture) {
  let widget = onSubgraphs.get(node);
  if (!widget) {
    const image = document.createElement("img");
    image.style.cssText = "width: 100%; height: 100%; object-fit: contain";
    widget = node.addDOMWidget("sana_preview", "preview", image, { serialize: false, hideOnZoom: false, getMinHeight: () => 160 });
    onSubgraphs.set(node, widget);
  }
  URL.revokeObjectURL(widget.element.src);
  widget.element.src = URL.createObjectURL(picture);
}

/** @param {any} node */
function clear(node) {
  node.imgs = undefined;
  const own = onSubgraphs.get(node);
  if (own) {
    URL.revokeObjectURL(own.element.src);
    node.removeWidget(own);
    onSubgraphs.delete(node);
  }
  const index = node.isSubgraphNode?.() ? -1 : (node.widgets ?? []).findIndex((widget) => widget.name === PREVIEW_WIDGET);
  if (index >= 0) {
    node.widgets[index].onRemove?.();
    node.widgets.splice(index, 1);
  }
  node.setDirtyCanvas(true, true);
}

function end() {
  for (const id of shown) {
    const parts = id.split(":");
    for (let count = parts.length; count > 0; count--) {
      const own = parts.slice(0, count).join(":"), node = nodeOf(own);
      store()?.revokePreviewsByExecutionId?.(own);
      if (node) clear(node);
    }
  }
  shown.clear();
}

app.registerExtension({
  name: "sananative.previews",
  setup() {
    api.addEventListener("b_preview_with_metadata", ({ detail }) => {
      const id = String(detail.displayNodeId);
      if (!OURS.test(nodeOf(id)?.type ?? "")) return;
      shown.add(id);
      const [first, inner] = id.split(":");
      if (inner && !LiteGraph.vueNodesMode) put(nodeOf(first), detail.blob);
    });
    for (const name of ENDS) api.addEventListener(name, end);
  },
});
