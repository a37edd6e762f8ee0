const data = block("data");
const several = data.runs.length > 1;
// Where a case's scores, by run and region, have what is no metric.
const [REFERENCE, PREDICTION] = [data.metrics.length + 3, data.metrics.length + 4];
const SERIOUS = ["missed", "false"];

const shortNumber = (value, digits) => (value === null ? null : value.toFixed(digits));
const runsOf = (entry) => data.runs.map((_, run) => run).filter((run) => entry.mean[run] !== null);

/* ---- what may be wrong with a case ---- */

// [run, region, finding, count] for each.
const findingsOf = (entry) =>
  entry.findings.flatMap((regions, run) =>
    Object.entries(regions).flatMap(([region, found]) =>
      Object.entries(found).map(([key, count]) => [run, region, key, count])));

const findingText = ([run, region, key, count]) => {
  const [name] = data.findings[key];
  const what = `${region.toUpperCase()} ${name}${SERIOUS.includes(key) ? "" : ` ${count}`}`;
  return several ? `${data.runs[run]}: ${what}` : what;
};

const chips = (entry) =>
  findingsOf(entry).map((found) => {
    const made = make("span", `chip ${SERIOUS.includes(found[2]) ? "check" : "note"}`, findingText(found));
    made.title = data.findings[found[2]][1];
    return made;
  });

const weight = (entry) =>
  findingsOf(entry).reduce((sum, [, , key, count]) => sum + (SERIOUS.includes(key) ? 1000 : count), 0);

/* ---- the table ---- */

const scoreOf = (entry, { run, region }) =>
  region ? (entry.scores[run][region]?.[0] ?? null) : entry.mean[run];

const row = (entry) => {
  const made = make("tr");
  const name = nameCell(entry);
  const found = cell("", "");
  found.append(...few(chips(entry), 3));
  made.append(
    name,
    cell("number", millilitres(entry.ml[data.regions[0]])),
    ...data.columns.map((column) =>
      cell(column.region ? "number optional" : "number strong", shortNumber(scoreOf(entry, column), 3))),
    cell("number optional", entry.outside.crop === undefined ? null : percent(entry.outside.crop)),
    found,
  );
  return made;
};

const caseTable = () => {
  const table = new CaseTable({
    cases: data.cases,
    columns: {
      id: (entry) => entry.id,
      ml: (entry) => entry.ml[data.regions[0]],
      ...Object.fromEntries(data.columns.map((column) => [column.key, (entry) => scoreOf(entry, column)])),
      outside: (entry) => entry.outside.crop ?? null,
      findings: weight,
    },
    row,
    filters: {
      region: (entry, wanted) => entry.ml[wanted] > 0,
      finding: (entry, wanted) =>
        findingsOf(entry).some(([run, region, key]) => `${run} ${region} ${key}` === wanted),
    },
    worstFirst: ["findings", "outside", "ml"],
  });
  data.runs.forEach((run, place) => {
    for (const region of data.regions) {
      for (const [key, [name]] of Object.entries(data.findings)) {
        const value = `${place} ${region} ${key}`;
        const count = data.cases.filter((entry) => entry.findings[place][region]?.[key]).length;
        const text = `${several ? `${run}: ` : ""}${region.toUpperCase()} ${name} (${count})`;
        if (count) byId("finding").append(new Option(text, value));
      }
    }
  });
  // The cases with a region are those to see the worst of in that region.
  byId("region").addEventListener("change", ({ target }) => {
    const column = data.columns.find(({ region }) => region === target.value);
    if (column) table.sort(column.key, 1);
  });
  for (const button of document.querySelectorAll("[data-finding]")) {
    button.addEventListener("click", () => table.jump("finding", button.dataset.finding));
  }
  return table;
};

/* ---- one case ---- */

const scoreTable = (entry) =>
  plainTable(
    ["Region", ...(several ? ["Run"] : []), ...data.metrics.map(([, name]) => name), "Reference, ml", "Prediction, ml"],
    data.regions.flatMap((region) =>
      runsOf(entry).map((run, index) => {
        const values = entry.scores[run][region];
        return [
          ["head", index ? "" : region.toUpperCase()],
          ...(several ? [["", data.runs[run]]] : []),
          ...data.metrics.map(([, , digits], metric) => ["number", values[metric].toFixed(digits)]),
          ["number", millilitres(values[REFERENCE])],
          ["number", millilitres(values[PREDICTION])],
        ];
      })),
  );

const facts = (entry) =>
  factList([
    ["Patient", entry.patient],
    ["Mean Dice", runsOf(entry).map((run) => `${several ? `${data.runs[run]} ` : ""}${entry.mean[run].toFixed(3)}`).join(", ")],
    ["Loss", runsOf(entry).map((run) => `${several ? `${data.runs[run]} ` : ""}${entry.loss[run].toFixed(3)}`).join(", ")],
    ["Tumour outside the crop", entry.outside.crop === undefined ? null : percent(entry.outside.crop)],
  ]);

/* ---- its slices ---- */

// A case beside the page is a script that hands it over by an event.
const loadBeside = (entry) =>
  new Promise((resolve, reject) => {
    const take = ({ detail }) => detail.id === entry.id && resolve(detail.payload);
    addEventListener(data.event, take);
    const script = make("script");
    script.src = `${data.folder}/${entry.beside}`;
    const done = () => {
      removeEventListener(data.event, take);
      script.remove();
      reject(new Error(`${data.folder}/${entry.beside} beside this page is missing, or of another page`));
    };
    script.addEventListener("load", done);
    script.addEventListener("error", done);
    document.head.append(script);
  });

const slices = make("div", "slices");
let viewer = null;

const say = (text) => {
  slices.replaceChildren(make("p", "lead", text));
  slices.hidden = !text;
  viewer = null;
};

const isOpen = (entry) => byId("case-title").textContent === entry.id;

// The viewer stays, so that cases are compared under the same window and overlay; what it shows of
// another case is hidden at once.
const showSlices = async (entry, index) => {
  slices.hidden = true;
  try {
    const payload = entry.inside ? block(`slices-${index}`) : await loadBeside(entry);
    if (!isOpen(entry)) return;
    if (!viewer) {
      slices.replaceChildren(make("div"));
      viewer = new SliceViewer(slices.firstChild);
    }
    slices.hidden = false;
    await viewer.show(entry.id, payload);
  } catch (error) {
    if (isOpen(entry)) say(error.message);
  }
};

const content = (entry, index) => {
  const found = make("p", "chips");
  found.append(...chips(entry));
  const scores = make("div", "wide");
  scores.append(scoreTable(entry));
  if (entry.inside || entry.beside) showSlices(entry, index);
  else say(data.slices ? `This page has the slices of the ${data.slices} worst cases; --cases adds more.` : "");
  return [found, slices, scores, facts(entry)];
};

if (data.cases.length) {
  const table = caseTable();
  const dialog = new CaseDialog(table, content);
  for (const point of document.querySelectorAll("[data-case]")) {
    point.addEventListener("click", () => dialog.open(Number(point.dataset.case)));
  }
  table.sort(data.columns[0].key, 1);
}
