// @ts-check
// Gives this pack's nodes a colour when they are added, so that they stand out among others. Whoever changes it keeps the change: nodes of
// a workflow that is opened keep what they were saved with.
import { app } from "../../scripts/app.js";

const COLOURS = { color: "#2a363b", bgcolor: "#3f5159" }; // "pale blue" of the editor's own menu of colours

app.registerExtension({
  name: "sananative.colours",
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("SanaNative") && !app.configuringGraph) Object.assign(node, COLOURS);
  },
});
