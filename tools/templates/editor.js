// Runs in ComfyUI's editor: builds the graph that a template describes and lays it out. Called by build.py with one template as JSON.
async (template) => {
  const TITLE = 30, GAP = 40, BELOW = 90; // BELOW: Nodes 2.0 draws taller nodes than the classic canvas
  const WIDTHS = { note: 380, subgraph: 400, after: 380, inside: 400 };
  const settle = () => new Promise((resolve) => setTimeout(resolve, 800));
  await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
  await settle();
  const graph = app.rootGraph, made = {};

  for (const spec of template.nodes) {
    const node = LiteGraph.createNode(spec.type);
    if (!node) throw new Error(`there is no node ${spec.type}`);
    graph.add(node);
    made[spec.key] = node;
    if (spec.title) node.title = spec.title;
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

  const inside = template.nodes.filter((spec) => spec.inside);
  for (const column of new Set(inside.map((spec) => spec.column)))
    stack(inside.filter((spec) => spec.column === column), column * (WIDTHS.inside + 2 * GAP), WIDTHS.inside, BELOW);

  const keys = Object.fromEntries(inside.map((spec) => [spec.key, made[spec.key].id]));
  const { subgraph, node } = graph.convertToSubgraph(new Set(inside.map((spec) => made[spec.key])));
  Object.assign(subgraph, { name: template.subgraph });
  Object.assign(node, { title: template.subgraph });
  for (const input of [...subgraph.inputs]) // those that links come into; the editor adds others by itself
    if (input.type === "IMAGE" || input.type === "MASK") subgraph.renameInput(input, input.type.toLowerCase());
    else subgraph.removeInput(input);
  for (const [key, name, label] of template.promoted) {
    const source = subgraph.nodes.find((inner) => inner.id === keys[key]);
    const widget = source.widgets.find((widget) => widget.name === name);
    const slot = source.getSlotFromWidget(widget);
    const input = subgraph.addInput(label, String(slot.type));
    input.label = label;
    input.connect(slot, source);
  }
  for (const [key, name, called] of template.outputs) {
    const source = subgraph.nodes.find((inner) => inner.id === keys[key]);
    const links = source.outputs.find((slot) => slot.name === name).links;
    for (const output of subgraph.outputs)
      if (output.linkIds.some((link) => links.includes(link))) subgraph.renameOutput(output, called);
  }
  const right = Math.max(...subgraph.nodes.map((inner) => inner.pos[0] + inner.size[0]));
  subgraph.inputNode.pos = [-320, 0];
  subgraph.outputNode.pos = [right + 2 * GAP, 0];
  await settle();
  let x = 0;
  const side = (column, width) => {
    const specs = template.nodes.filter((spec) => !spec.inside && spec.column === column);
    if (!specs.length) return;
    stack(specs, x, width, GAP);
    x += width + GAP;
  };
  side(0, WIDTHS.note);
  node.pos = [x, 0];
  node.setSize([WIDTHS.subgraph, template.height]);
  x += WIDTHS.subgraph + GAP;
  side(3, WIDTHS.after);
  await settle();
  const { workflow } = await app.graphToPrompt();
  const preview = "$$canvas-image-preview"; // of the node that trains, else of the one that samples, shown on the subgraph
  const lastOf = (type) => subgraph.nodes.filter((inner) => inner.type === type).slice(-1);
  const shown = [...lastOf("SanaNativeTrainLora"), ...lastOf("SanaNativeGenerate")].slice(0, 1);
  workflow.nodes.find((saved) => String(saved.id) === String(node.id)).properties.previewExposures = shown.map((inner) => ({
    name: preview,
    sourceNodeId: String(inner.id),
    sourcePreviewName: preview,
  }));
  return workflow;

  function stack(specs, x, width, gap) {
    let y = 0;
    for (const { key, height } of specs) {
      const one = made[key];
      one.setSize([width, Math.max(height ?? 0, one.computeSize()[1])]);
      one.pos = [x, y];
      y += TITLE + one.size[1] + gap;
    }
  }
}
