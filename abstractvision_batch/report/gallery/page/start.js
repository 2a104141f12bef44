/* Put it together once the columns are there. */

function fillChoices(select, choices, chosen) {
  select.replaceChildren(
    ...choices.map(([value, text]) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = text;
      return option;
    }),
  );
  select.value = choices.some(([value]) => value === chosen) ? chosen : choices[0][0];
}

function makeControls() {
  const named = (columns, none) => [["", none], ...columns.map(({ name }) => [name, spelled(name)])];
  const sortable = [...AVB.columns.values()].filter((column) => column.constant === undefined);
  fillChoices(byId("sort"), named(sortable, "plan order"), STATE.sort);
  fillChoices(byId("across"), named(axes(), "–"), STATE.across);
  fillChoices(byId("down"), named(axes(), "–"), STATE.down);
  fillChoices(byId("labelled"), [...LABEL_CHOICES, ...[1, 2, 3, 4, 5].map((n) => [String(n), `label ${n}`])], STATE.labelled);
  byId("search").value = STATE.search;
  showDirection();
  for (const name of ["sort", "across", "down", "labelled"]) {
    byId(name).addEventListener("change", () => {
      STATE[name] = byId(name).value;
      look();
    });
  }
  byId("direction").addEventListener("click", () => {
    STATE.descending = !STATE.descending;
    showDirection();
    look();
  });
  let waiting = null;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      STATE.search = byId("search").value;
      look();
    }, 120);
  });
  byId("search").addEventListener("keydown", (event) => event.key === "Enter" && moveTo(0));
  byId("show-facets").addEventListener("click", () => {
    const open = byId("facets").classList.toggle("open");
    byId("show-facets").setAttribute("aria-expanded", String(open));
  });
  byId("theme").addEventListener("click", changeTheme);
}

function showDirection() {
  byId("direction").textContent = STATE.descending ? "↓" : "↑";
  byId("direction").setAttribute("aria-pressed", String(STATE.descending));
}

function makeLightbox() {
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => byId("lightbox").close());
  byId("note").addEventListener("change", () => mark(() => ({ note: byId("note").value.trim() || undefined })));
  byId("lightbox").addEventListener("close", () => {
    byId("stage").replaceChildren(); // a video stops
    look({ keepPlace: true });
    moveTo(VIEW.at);
  });
}

function makeAbout() {
  const { about } = AVB;
  byId("about-name").textContent = about.run;
  byId("about-text").textContent = about.description ?? "";
  const models = [...new Set(Object.values(about.jobs).map(({ model }) => model))].join(", ");
  const classes = AVB.columns.get("reproducibility");
  putPairs(byId("about-fields"), [
    ["model", models],
    ["licence of the model", about.licences.join(", ")],
    ["task", about.task],
    ["requests", `${AVB.rows.toLocaleString()} of ${about.requests.toLocaleString()} have a result`],
    ["reproducibility", classes?.values ? classes.values.filter(Boolean).join(", ") : classes?.constant],
    ["fingerprint", about.fingerprint],
    ["begun", about.created_at],
  ]);
  byId("about-commands").textContent = [
    "avbatch audit RUN           # every request has a row, every file its hash",
    "avbatch verify RUN          # some requests are generated again and compared, pixel by pixel",
    "avbatch rerun RUN           # the whole run, once more",
  ].join("\n");
  putPairs(byId("keys"), KEYS.map(([keys, does]) => [keys.join("  "), does]));
  byId("more").addEventListener("click", () => byId("about").showModal());
  byId("export").addEventListener("click", () => download(`${about.run}-labels.csv`, labelsAsCsv()));
  byId("import").addEventListener("change", async ({ target }) => {
    const said = byId("about-said");
    try {
      const { taken, unknown } = await importLabels(await target.files[0].text());
      said.textContent = `${taken} labels taken${unknown ? `, ${unknown} of other runs left out` : ""}.`;
    } catch (error) {
      said.textContent = `Not imported: ${error.message}.`;
    }
    target.value = "";
    look({ keepPlace: true });
  });
  byId("pick").hidden = location.protocol !== "file:" || about.layout === "files";
  byId("folder").addEventListener("change", ({ target }) => {
    PICTURE.folder = [...target.files];
    byId("about-said").textContent = `${PICTURE.folder.length.toLocaleString()} files can be read.`;
  });
  for (const button of document.querySelectorAll("dialog > .close")) {
    button.addEventListener("click", () => button.parentElement.close());
  }
}

/* Failures by what they say, the most frequent first; a click shows the requests. */
function makeFailures() {
  const groups = new Map();
  for (let row = 0; row < AVB.rows; row += 1) {
    const status = valueOf("status", row);
    if (status === "ok") continue;
    const [kind, message] = [valueOf("error_kind", row), valueOf("error_message", row)];
    const key = JSON.stringify([status, kind, message]);
    const group = groups.get(key) ?? { status, kind, message, count: 0 };
    group.count += 1;
    groups.set(key, group);
  }
  byId("failures").hidden = groups.size === 0;
  const largest = [...groups.values()].sort((a, b) => b.count - a.count);
  byId("failures").textContent = `Failures (${largest.reduce((sum, { count }) => sum + count, 0).toLocaleString()})`;
  byId("failures").addEventListener("click", () => byId("failed").showModal());
  byId("failed-groups").replaceChildren(
    ...largest.slice(0, 200).map(({ status, kind, message, count }) => {
      const group = document.createElement("div");
      group.className = "group";
      const title = document.createElement("strong");
      title.textContent = `${count.toLocaleString()} × ${kind ?? spelled(status)}`;
      const text = document.createElement("p");
      text.textContent = visible(message ?? "");
      const show = document.createElement("button");
      show.type = "button";
      show.textContent = "Show them";
      show.addEventListener("click", () => {
        STATE.only = { status: [status], error_kind: [kind], error_message: [message] };
        byId("failed").close();
        makeFacets();
        look();
        moveTo(0);
      });
      group.append(title, text, show);
      return group;
    }),
  );
}

function applyTheme() {
  let kept = null;
  try {
    kept = localStorage.getItem("avbatch:theme");
  } catch {
    kept = null;
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = kept ?? (dark ? "dark" : "light");
}

function start() {
  applyTheme();
  document.title = AVB.about.run;
  byId("name").textContent = AVB.about.run;
  const open = readAddress();
  readLabels();
  makeControls();
  makeFacets();
  makeLightbox();
  makeAbout();
  makeFailures();
  look();
  const view = byId("view");
  let drawing = false;
  view.addEventListener("scroll", () => {
    if (drawing || isMatrix()) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      drawGrid({ anew: false });
    });
  }, { passive: true });
  addEventListener("resize", () => draw());
  document.addEventListener("keydown", onKey);
  if (open !== null && open >= 0 && open < AVB.rows) {
    VIEW.at = Math.max(0, VIEW.order.indexOf(open));
    openPicture(open);
  }
  document.documentElement.dataset.ready = "yes";
  placeLabels().then(() => LABELS.byId.size && look({ keepPlace: true }), () => {});
}
