/* One picture as a spec, a command and a program: what would make it again. */

const PARAMETERS = ["negative_prompt", "width", "height", "steps", "guidance_scale", "strength", "num_frames", "fps"];

function requestOf(row, details) {
  const job = AVB.about.jobs[valueOf("variant", row) ?? ""] ?? Object.values(AVB.about.jobs)[0];
  const params = {};
  for (const name of PARAMETERS) {
    const value = valueOf(name, row);
    if (value !== null) params[name] = value;
  }
  const extra = JSON.parse(details.params_json || "{}");
  if (Object.keys(extra).length) params.extra = extra;
  const prompt = { prompt: valueOf("prompt", row) ?? "", seed: `SEED:${details.seed}` };
  const image = valueOf("input_image", row);
  if (image !== null) prompt.image = image;
  return { ...job, prompts: { source: [prompt] }, params, output: { path: "./one-picture" } };
}

/* Seeds have up to 63 bits, more digits than a number of JavaScript holds. */
const withSeeds = (text) => text.replace(/"SEED:(\d+)"/g, "$1");

function asSpec(row, details) {
  const { task, model, backend, ...rest } = requestOf(row, details);
  return withSeeds(JSON.stringify({ name: "one-picture", task, model, backend, ...rest }, null, 2));
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

function asCommand(row, details) {
  const { task, model, backend, params } = requestOf(row, details);
  const { extra, ...plain } = params;
  const words = ["avbatch generate", quoted(valueOf("prompt", row) ?? ""), "--task", task, "--backend", backend.kind];
  words.push("--model", quoted(model), "--seed", details.seed);
  for (const [name, value] of Object.entries(plain)) words.push(`--${name.replaceAll("_", "-")}`, quoted(value));
  for (const [name, value] of Object.entries(extra ?? {})) words.push("--extra", quoted(`${name}=${JSON.stringify(value)}`));
  return words.join(" ");
}

function asPython(row, details) {
  const literal = withSeeds(JSON.stringify(requestOf(row, details), null, 4))
    .replace(/: true\b/g, ": True")
    .replace(/: false\b/g, ": False")
    .replace(/: null\b/g, ": None");
  return `import abstractvision_batch as avb\n\nresult = avb.run({"name": "one-picture", **${literal}})\n`;
}
