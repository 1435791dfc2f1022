// Runs in ComfyUI's editor: builds the graph that a template describes and lays it out. Called by build.py with one template as JSON.
async (template) => {
  const TITLE = 30, PAD = 20, GAP = 40, HEAD = 60;
  const settle = () => new Promise((resolve) => setTimeout(resolve, 800));
  await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
  await settle();
  const graph = app.rootGraph, made = {};

  for (const spec of template.groups.flatMap((group) => group.nodes)) {
    const node = LiteGraph.createNode(spec.type);
    if (!node) throw new Error(`there is no node ${spec.type}`);
    graph.add(node);
    made[spec.key] = node;
    if (spec.title) node.title = spec.title;
    if (spec.color) Object.assign(node, { color: LGraphCanvas.node_colors[spec.color].color, bgcolor: LGraphCanvas.node_colors[spec.color].bgcolor });
    for (const [name, value] of Object.entries(spec.widgets)) {
      const widget = node.widgets.find((widget) => widget.name === name);
      if (!widget) throw new Error(`${spec.type} has no widget ${name}, it has ${node.widgets.map((widget) => widget.name)}`);
      widget.value = value;
      widget.callback?.(value);
    }
    Object.assign(node.properties, spec.properties);
  }
  for (const [source, output, target, input] of template.links) {
    const from = made[source].outputs.findIndex((slot) => slot.name === output);
    const to = made[target].inputs.findIndex((slot) => slot.name === input);
    if (from < 0 || to < 0) throw new Error(`no link ${source}.${output} -> ${target}.${input}`);
    made[source].connect(from, made[target], to);
  }
  await settle();

  const bottoms = {}; // of every column
  let left = {}; // x of every column
  for (const group of template.groups) left[group.column] = Math.max(left[group.column] ?? 0, group.width);
  let x = 0;
  for (const column of Object.keys(left).sort((a, b) => a - b)) {
    const width = left[column];
    left[column] = x;
    x += width + 2 * PAD + GAP;
  }
  for (const spec of template.groups) {
    const top = bottoms[spec.column] ?? 0, start = left[spec.column];
    let y = top + HEAD;
    for (const { key, height } of spec.nodes) {
      const node = made[key];
      node.setSize([spec.width, Math.max(height ?? 0, node.computeSize()[1])]);
      node.pos = [start + PAD, y + TITLE];
      y += TITLE + node.size[1] + PAD;
    }
    if (spec.title) {
      const group = new LiteGraph.LGraphGroup(spec.title);
      Object.assign(group, { pos: [start, top], size: [spec.width + 2 * PAD, y - top], color: spec.color, font_size: 24 });
      graph.add(group);
    }
    bottoms[spec.column] = y + GAP;
  }
  await settle();
  return (await app.graphToPrompt()).workflow;
}
