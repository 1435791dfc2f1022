// @ts-check
// Shows the packaged templates in Chinese where the editor is: ComfyUI translates nodes, but no notes, titles and labels of workflows.
import { app } from "../../scripts/app.js";

/** English -> Chinese, for the texts of templates. */
const words = async () => (await fetch(new URL("chinese.json", import.meta.url))).json();

app.registerExtension({
  name: "sananative.chinese",
  async afterConfigureGraph() {
    if (!String(app.extensionManager.setting.get("Comfy.Locale")).startsWith("zh")) return;
    const notes = app.rootGraph.nodes.filter((node) => node.type === "MarkdownNote");
    if (!notes.some((note) => note.widgets[0].value.startsWith("## SANA"))) return;
    const chinese = await words();
    const ours = notes.filter((note) => note.widgets[0].value in chinese); // a note that someone has changed stays
    if (!ours.length) return;
    for (const note of ours) note.widgets[0].value = chinese[note.widgets[0].value];
    for (const node of app.rootGraph.nodes) node.title = chinese[node.title] ?? node.title;
    for (const subgraph of app.rootGraph.subgraphs.values()) {
      subgraph.name = chinese[subgraph.name] ?? subgraph.name;
      for (const slot of subgraph.inputs) if (slot.label in chinese) subgraph.renameInput(slot, chinese[slot.label]);
      for (const slot of subgraph.outputs) if (slot.label in chinese) subgraph.renameOutput(slot, chinese[slot.label]);
    }
    app.canvas.setDirty(true, true);
  },
});
