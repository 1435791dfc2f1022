// @ts-check
// "Replace All" puts nodes into a graph without telling them, and the classic canvas then draws no text boxes on them.
import { app } from "../../scripts/app.js";

const OURS = /^SanaNative/;

app.registerExtension({
  name: "sananative.replacedNodes",
  nodeCreated(node) {
    if (!OURS.test(node.comfyClass ?? "")) return;
    let told = false;
    const onAdded = node.onAdded;
    node.onAdded = function (...graph) {
      told = true;
      return onAdded?.apply(this, graph);
    };
    setTimeout(() => {
      if (!told && node.graph?.getNodeById(node.id) === node) node.onAdded(node.graph);
    });
  },
});
