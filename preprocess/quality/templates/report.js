const data = block("data");
const WEIGHTS = { error: 10000, check: 100, note: 1 };
const PREVIEW = "data:image/webp;base64,";
const [WIDTH, HEIGHT, FLOOR] = [320, 150, 128];

const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// Pictures are most of the page's bytes; they are parsed when the first one is needed.
let pictures = null;
const picture = (index) => {
  pictures ??= block("pictures");
  return pictures[index] && PREVIEW + pictures[index];
};

/* ---- the table ---- */

const weight = (entry) => entry.flags.reduce((sum, [key]) => sum + WEIGHTS[data.flags[key].severity], 0);

const COLUMNS = {
  id: (entry) => entry.id,
  split: (entry) => entry.split || null,
  convention: (entry) => (entry.labelled ? `${entry.convention} ${entry.decided}` : null),
  ...Object.fromEntries(data.columns.map((region) => [`ml-${region}`, (entry) => entry.ml && entry.ml[region]])),
  lost: (entry) => entry.lost,
  centred: (entry) => entry.centred,
  flags: weight,
};

// A flag that was raised several times, as for two modalities, is one chip with all details.
const grouped = (entry) => {
  const details = new Map();
  for (const [key, detail] of entry.flags) details.set(key, [...(details.get(key) ?? []), detail]);
  return [...details].map(([key, found]) => ({ flag: data.flags[key], found }));
};

const chip = ({ flag, found }) => {
  const made = make("span", `chip ${flag.severity}`, flag.title);
  made.title = `${found.join("\n")}\n\n${flag.meaning}\n\n→ ${flag.action}`;
  return made;
};

const chips = (entry) => few(grouped(entry).map(chip), 4);

const row = (entry) => {
  const made = make("tr");
  const name = nameCell(entry);
  const label = cell("", entry.labelled ? entry.convention : null);
  if (entry.labelled) label.append(make("span", "second", `by ${entry.decided}`));
  const flags = cell("", "");
  flags.append(...chips(entry));
  made.append(
    cell("picture", ""),
    name,
    cell("", entry.split || null),
    label,
    ...data.columns.map((region, column) =>
      cell(column ? "number optional" : "number", entry.ml ? millilitres(entry.ml[region]) : null)),
    ...["lost", "centred"].map((key) => cell("number optional", entry[key] === null ? null : percent(entry[key]))),
    flags,
  );
  return made;
};

const table = new CaseTable({
  cases: data.cases,
  columns: COLUMNS,
  row,
  filters: {
    split: (entry, wanted) => (entry.split || "none") === wanted,
    label: (entry, wanted) => entry.labelled === (wanted === "yes"),
    flag: (entry, wanted) =>
      (wanted === "any" && entry.flags.length > 0) ||
      (wanted === "none" && entry.flags.length === 0) ||
      entry.flags.some(([key]) => `is ${key}` === wanted),
  },
  worstFirst: ["flags"],
});

const addPicture = (made) => {
  const source = picture(made.dataset.index);
  if (!source) {
    made.cells[0].append(make("div", "nopicture", "no picture"));
    return;
  }
  const image = make("img");
  image.alt = "";
  image.decoding = "async";
  image.src = source;
  made.cells[0].append(image);
};

const near = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) {
        near.unobserve(target);
        addPicture(target);
      }
    }
  },
  { rootMargin: "400px 0px" },
);
table.rows.forEach((made) => near.observe(made));

for (const [key, flag] of Object.entries(data.flags)) {
  const count = data.cases.filter((entry) => entry.flags.some(([own]) => own === key)).length;
  if (count) byId("flag").append(new Option(`${flag.title} (${count})`, `is ${key}`));
}

for (const button of document.querySelectorAll("[data-flag]")) {
  button.addEventListener("click", () => table.jump("flag", `is ${button.dataset.flag}`));
}

byId("copy").addEventListener("click", async () => {
  const ids = table.shown.map((index) => data.cases[index].id);
  await navigator.clipboard.writeText(`[${ids.join(", ")}]`);
  byId("copy").textContent = `Copied ${ids.length}`;
  setTimeout(() => (byId("copy").textContent = "Copy ids"), 2000);
});

/* ---- one case ---- */

const chart = (name, bytes) => {
  const cohort = data.curves[name];
  const bins = cohort.mean.length;
  const [first, last] = data.edges;
  const own = [...atob(bytes)].map((c) => (c.charCodeAt(0) / 255) * data.tops[name]);
  const top = Math.max(...own, ...cohort.high);
  const x = (bin) => ((bin + 0.5) / bins) * WIDTH;
  const points = (values) => values.map((v, bin) => `${x(bin).toFixed(1)},${(FLOOR - (v / top) * 112).toFixed(1)}`);
  const label = `${data.names[name]} of this case and of all cases`;
  const svg = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(
    makeSvg("path", { class: "band", d: `M${points(cohort.high).join(" ")}L${points(cohort.low).reverse().join(" ")}Z` }),
    makeSvg("path", { class: "axis", d: `M0 ${FLOOR}H${WIDTH}` }),
    makeSvg("path", { class: "own", d: `M${points(own).join(" ")}` }),
  );
  for (let mark = Math.ceil(first / 5) * 5; mark <= last; mark += 5) {
    const [x, y] = [((mark - first) / (last - first)) * WIDTH, FLOOR + 16];
    const anchor = mark === first ? "start" : mark === last ? "end" : "middle";
    svg.append(makeSvg("text", { class: "tick", x, y, "text-anchor": anchor }, `${mark} σ`.replace("-", "−")));
  }
  const figure = make("figure");
  figure.append(make("figcaption", "", data.names[name]), svg);
  return figure;
};

const facts = (entry) =>
  factList([
    ["Patient", entry.patient],
    ["Split", entry.split || "none"],
    ["Label", entry.labelled ? `${entry.convention}, decided by ${entry.decided}` : "none"],
    ["Volumes", entry.ml && data.regions.map((r) => `${r.toUpperCase()} ${millilitres(entry.ml[r])}`).join(", ") + " ml"],
    ["File's grid", `${entry.grid.join(" × ")} voxels (D, H, W)`],
    ["Spacing", `${entry.spacing.join(" × ")} mm`],
    ["Stored", entry.stored.join(" × ")],
    ["Outside the crop", entry.lost === null ? null : `${percent(entry.lost)} (if centred ${percent(entry.centred)})`],
  ]);

const flagList = (entry) => {
  const list = make("div", "flagged");
  for (const group of grouped(entry)) {
    const left = make("div");
    left.append(chip(group), ...group.found.map((detail) => make("p", "", detail)));
    const right = make("div");
    right.append(make("p", "", group.flag.action), make("p", "", group.flag.meaning));
    list.append(left, right);
  }
  return list;
};

const warnings = (entry) =>
  plainTable(
    ["File", "Found", "What to do"],
    entry.warnings.map(([file, found, action]) => [["mono", file], ["", found], ["", action]]),
  );

const sources = (entry) => {
  const list = plainTable(
    ["Role", "File", "Mean ± σ", "Size", "SHA-256"],
    entry.sources.map(([role, file, bytes, digest]) => {
      const [mean, std] = entry.statistics[role] ?? [];
      return [
        ["head", data.names[role] ?? role],
        ["mono", file],
        ["", mean === undefined ? "–" : `${mean} ± ${std}`],
        ["", size(bytes)],
        ["mono", `${digest.slice(0, 16)}…`],
      ];
    }),
  );
  entry.sources.forEach(([, , , digest], index) => (list.tBodies[0].rows[index].lastChild.title = digest));
  return list;
};

const threePlanes = (entry, source) => {
  const image = make("img");
  image.src = source;
  image.alt = `${data.shown} of ${entry.id} with its regions`;
  const planes = make("div", "planes");
  planes.append(...["axial", "coronal", "sagittal"].map((plane) => make("span", "", plane)));
  return [image, planes];
};

const content = (entry, index) => {
  const source = picture(index);
  const made = [...(source ? threePlanes(entry, source) : []), flagList(entry), facts(entry)];
  const charts = make("div", "charts four");
  charts.append(...Object.entries(entry.curves).map(([name, bytes]) => chart(name, bytes)));
  if (charts.childElementCount) made.push(make("h3", "", "Normalised intensities: this case, and the band of all cases"), charts);
  if (entry.warnings.length) made.push(make("h3", "", "Warnings about its files"), warnings(entry));
  return [...made, make("h3", "", "Files"), sources(entry)];
};

new CaseDialog(table, content);
table.sort("flags", -1);
