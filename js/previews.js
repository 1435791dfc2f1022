// @ts-check
// Previews of this pack's nodes. The editor leaves the last one beside the finished picture, and after a cancel: they are taken off when a
// run ends, and one that is still being loaded then is not let in. The classic canvas shows none on a subgraph: they are put there.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = /^SanaNative/;
const PREVIEW_WIDGET = "$$canvas-image-preview"; // of the classic canvas
const ENDS = ["execution_success", "execution_interrupted", "execution_error"];
const GONE_MS = 600; // the editor forgets previews somewhat later
const running = new Map(); // execution id of a node, or of a subgraph around it -> the node
const guarded = new WeakSet();
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

/** A preview is loaded before the editor sets it: do not let it in when its run is over. @param {any} node @param {string} id */
function letInWhileRunning(node, id) {
  if (guarded.has(node)) return;
  guarded.add(node);
  let pictures = node.imgs;
  Object.defineProperty(node, "imgs", {
    configurable: true,
    enumerable: true,
    get: () => pictures,
    set: (loaded) => {
      pictures = running.has(id) || !loaded?.some((picture) => picture.src.startsWith("blob:")) ? loaded : undefined;
    },
  });
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

/** The editor loads the pictures of a result once, and took the preview for them: let it load them. @param {any} node */
function showResult(node) {
  if (node.imgs) return;
  node.images = undefined;
  node.setDirtyCanvas(true, true);
}

function end() {
  const ended = [...running];
  running.clear();
  for (const [id, node] of ended) {
    store()?.revokePreviewsByExecutionId?.(id);
    clear(node);
    setTimeout(() => showResult(node), GONE_MS);
  }
}

app.registerExtension({
  name: "sananative.previews",
  setup() {
    api.addEventListener("b_preview_with_metadata", ({ detail }) => {
      const id = String(detail.displayNodeId);
      if (!OURS.test(nodeOf(id)?.type ?? "")) return;
      const parts = id.split(":");
      for (let count = parts.length; count > 0; count--) {
        const own = parts.slice(0, count).join(":"), node = nodeOf(own);
        running.set(own, node);
        letInWhileRunning(node, own);
      }
      if (parts.length > 1 && !LiteGraph.vueNodesMode) put(nodeOf(parts[0]), detail.blob);
    });
    for (const name of ENDS) api.addEventListener(name, end);
  },
});
