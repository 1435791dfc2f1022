// @ts-check
// "Replace All" puts nodes into a graph without telling them: the classic canvas then draws no text boxes on them. It keeps the properties
// of the old nodes, where the panel of missing models looks for the address of Gemma-2.
import { app } from "../../scripts/app.js";

const OURS = /^SanaNative/;
const TEXT_NODE = 260; // height in pixels at which a text box shows some lines
const OLD_GEMMA = ["GemmaLoader", "SanaCLIPLoader"];
const GEMMA = {
  name: "gemma_2_2b_fp16.safetensors",
  url: "https://huggingface.co/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/text_encoders/gemma_2_2b_fp16.safetensors",
  directory: "text_encoders",
};

app.registerExtension({
  name: "sananative.replacedNodes",
  beforeConfigureGraph(graph) {
    for (const node of graph.nodes ?? []) if (OLD_GEMMA.includes(node.type)) (node.properties ??= {}).models ??= [GEMMA];
  },
  nodeCreated(node) {
    if (!OURS.test(node.comfyClass ?? "")) return;
    let told = false;
    const onAdded = node.onAdded;
    node.onAdded = function (...graph) {
      told = true;
      return onAdded?.apply(this, graph);
    };
    setTimeout(() => {
      if (told || node.graph?.getNodeById(node.id) !== node) return;
      node.onAdded(node.graph);
      if (node.widgets?.some((widget) => widget.element)) node.setSize([Math.max(node.size[0], 320), Math.max(node.size[1], TEXT_NODE)]);
    });
  },
});
