"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const WEIGHTS = { error: 10000, check: 100, note: 1 };
  const PREVIEW = "data:image/webp;base64,";
  const byId = (id) => document.getElementById(id);

  // Pictures are most of the page's bytes; they are parsed when the first one is needed.
  let pictures = null;
  const picture = (index) => {
    pictures ??= JSON.parse(byId("pictures").textContent);
    return pictures[index] && PREVIEW + pictures[index];
  };

  // Text from files is only set through `textContent`, so it never becomes markup.
  const make = (tag, style = "", text = "") => {
    const element = document.createElement(tag);
    if (style) element.className = style;
    if (text !== "") element.textContent = text;
    return element;
  };

  const millilitres = (ml) =>
    ml === 0 ? "0" : ml < 0.01 ? "< 0.01" : ml.toFixed(ml >= 100 ? 0 : ml >= 10 ? 1 : 2);
  const percent = (share) =>
    share === 0 ? "0" : share < 0.0005 ? "< 0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
  const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

  /* ---- the table ---- */

  const table = byId("table");
  const body = table.tBodies[0];

  const COLUMNS = {
    id: (entry) => entry.id,
    split: (entry) => entry.split || null,
    convention: (entry) => (entry.labelled ? `${entry.convention} ${entry.decided}` : null),
    ...Object.fromEntries(data.columns.map((region) => [`ml-${region}`, (entry) => entry.ml && entry.ml[region]])),
    lost: (entry) => entry.lost,
    centred: (entry) => entry.centred,
    flags: (entry) => weight(entry),
  };

  const weight = (entry) => entry.flags.reduce((sum, [key]) => sum + WEIGHTS[data.flags[key].severity], 0);

  const cell = (style, text) => {
    const made = make("td", style, text ?? "–");
    made.setAttribute("role", "cell");
    if (text === null) made.classList.add("none");
    return made;
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

  const chips = (entry) => {
    const groups = grouped(entry);
    const room = groups.length > 4 ? 3 : 4;
    const made = groups.slice(0, room).map(chip);
    if (groups.length > room) {
      const rest = make("span", "chip note", `+ ${groups.length - room} more`);
      rest.title = groups.slice(room).map(({ flag }) => flag.title).join("\n");
      made.push(rest);
    }
    return made;
  };

  const titles = [...table.tHead.rows[0].cells].map((header) => header.textContent);

  const row = (entry, index) => {
    const made = make("tr");
    made.setAttribute("role", "row");
    made.dataset.index = index;
    const image = cell("picture", "");
    const name = cell("", "");
    const button = make("button", "name", entry.id);
    button.type = "button";
    name.append(button);
    if (entry.patient !== entry.id) name.append(make("span", "second", entry.patient));
    const label = cell("", entry.labelled ? entry.convention : null);
    if (entry.labelled) label.append(make("span", "second", `by ${entry.decided}`));
    const flags = cell("", "");
    flags.append(...chips(entry));
    made.append(
      image,
      name,
      cell("", entry.split || null),
      label,
      ...data.columns.map((region, column) =>
        cell(column ? "number optional" : "number", entry.ml ? millilitres(entry.ml[region]) : null)),
      ...["lost", "centred"].map((key) => cell("number optional", entry[key] === null ? null : percent(entry[key]))),
      flags,
    );
    // On narrow screens, which hide the table's header, each value has a title of its own.
    [...made.cells].slice(2, -1).forEach((one, column) => (one.dataset.title = titles[column + 2]));
    return made;
  };

  const rows = data.cases.map(row);

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
  rows.forEach((made) => near.observe(made));

  /* ---- order and filters ---- */

  let order = data.cases.map((_, index) => index);
  let shown = [];
  const text = new Intl.Collator("en", { numeric: true });

  // Cases without a value come last in both directions.
  const compare = (a, b, direction) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (typeof a === "number" ? a - b : text.compare(a, b));
  };

  const sort = (column, direction) => {
    const keys = data.cases.map(COLUMNS[column]);
    order.sort((a, b) => compare(keys[a], keys[b], direction) || a - b);
    for (const button of table.querySelectorAll("[data-sort]")) {
      const header = button.closest("th");
      if (button.dataset.sort !== column) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    }
    byId("order").value = `${column} ${direction}`;
    body.append(...order.map((index) => rows[index]));
    filter();
  };

  const matches = (entry) => {
    const wanted = byId("find").value.trim().toLowerCase();
    const split = byId("split").value;
    const label = byId("label").value;
    const flag = byId("flag").value;
    return (
      (!wanted || `${entry.id}\n${entry.patient}`.toLowerCase().includes(wanted)) &&
      (!split || (entry.split || "none") === split) &&
      (!label || entry.labelled === (label === "yes")) &&
      (!flag ||
        (flag === "any" && entry.flags.length > 0) ||
        (flag === "none" && entry.flags.length === 0) ||
        entry.flags.some(([key]) => `is ${key}` === flag))
    );
  };

  const filter = () => {
    shown = order.filter((index) => matches(data.cases[index]));
    const visible = new Set(shown);
    rows.forEach((made, index) => (made.hidden = !visible.has(index)));
    const [some, all] = [shown.length, data.cases.length].map((count) => count.toLocaleString("en"));
    byId("shown").textContent = some === all ? `${all} cases` : `${some} of ${all} cases`;
    byId("nothing").hidden = shown.length > 0;
  };

  for (const [key, flag] of Object.entries(data.flags)) {
    const count = data.cases.filter((entry) => entry.flags.some(([own]) => own === key)).length;
    if (count) byId("flag").append(new Option(`${flag.title} (${count})`, `is ${key}`));
  }

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("[data-sort]");
    if (!button) return;
    const sorted = button.closest("th").getAttribute("aria-sort");
    const first = button.dataset.sort === "flags" ? -1 : 1;
    sort(button.dataset.sort, sorted === null ? first : sorted === "ascending" ? -1 : 1);
  });
  for (const button of table.querySelectorAll("[data-sort]")) {
    for (const [direction, arrow] of [[1, "↑"], [-1, "↓"]]) {
      byId("order").append(new Option(`${button.textContent} ${arrow}`, `${button.dataset.sort} ${direction}`));
    }
  }
  byId("order").addEventListener("change", ({ target }) => {
    const [column, direction] = target.value.split(" ");
    sort(column, Number(direction));
  });
  byId("find").addEventListener("input", filter);
  for (const id of ["split", "label", "flag"]) byId(id).addEventListener("change", filter);

  for (const button of document.querySelectorAll("[data-flag]")) {
    button.addEventListener("click", () => {
      for (const id of ["find", "split", "label"]) byId(id).value = "";
      byId("flag").value = `is ${button.dataset.flag}`;
      filter();
      byId("cases").scrollIntoView();
    });
  }

  byId("copy").addEventListener("click", async () => {
    const ids = shown.map((index) => data.cases[index].id);
    await navigator.clipboard.writeText(`[${ids.join(", ")}]`);
    byId("copy").textContent = `Copied ${ids.length}`;
    setTimeout(() => (byId("copy").textContent = "Copy ids"), 2000);
  });

  /* ---- one case ---- */

  const dialog = byId("case");
  const [WIDTH, HEIGHT, FLOOR] = [320, 150, 128];
  let current = 0;

  const path = (style, d) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
    made.setAttribute("class", style);
    made.setAttribute("d", d);
    return made;
  };

  const chart = (name, bytes) => {
    const cohort = data.curves[name];
    const bins = cohort.mean.length;
    const [first, last] = data.edges;
    const own = [...atob(bytes)].map((c) => (c.charCodeAt(0) / 255) * data.tops[name]);
    const top = Math.max(...own, ...cohort.high);
    const x = (bin) => ((bin + 0.5) / bins) * WIDTH;
    const points = (values) => values.map((v, bin) => `${x(bin).toFixed(1)},${(FLOOR - (v / top) * 112).toFixed(1)}`);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${data.names[name]} of this case and of all cases`);
    svg.append(
      path("band", `M${points(cohort.high).join(" ")}L${points(cohort.low).reverse().join(" ")}Z`),
      path("axis", `M0 ${FLOOR}H${WIDTH}`),
      path("own", `M${points(own).join(" ")}`),
    );
    for (let mark = Math.ceil(first / 5) * 5; mark <= last; mark += 5) {
      const tick = document.createElementNS("http://www.w3.org/2000/svg", "text");
      tick.setAttribute("class", "tick");
      tick.setAttribute("x", ((mark - first) / (last - first)) * WIDTH);
      tick.setAttribute("y", FLOOR + 16);
      tick.setAttribute("text-anchor", mark === first ? "start" : mark === last ? "end" : "middle");
      tick.textContent = `${mark} σ`.replace("-", "−");
      svg.append(tick);
    }
    const figure = make("figure");
    figure.append(make("figcaption", "", data.names[name]), svg);
    return figure;
  };

  const facts = (entry) => {
    const list = make("dl", "facts");
    const box = entry.stored.join(" × ");
    const found = [
      ["Patient", entry.patient],
      ["Split", entry.split || "none"],
      ["Label", entry.labelled ? `${entry.convention}, decided by ${entry.decided}` : "none"],
      ["Volumes", entry.ml && data.regions.map((r) => `${r.toUpperCase()} ${millilitres(entry.ml[r])}`).join(", ") + " ml"],
      ["File's grid", `${entry.grid.join(" × ")} voxels (D, H, W)`],
      ["Spacing", `${entry.spacing.join(" × ")} mm`],
      ["Stored", box],
      ["Outside the crop", entry.lost === null ? null : `${percent(entry.lost)} (if centred ${percent(entry.centred)})`],
    ];
    for (const [title, value] of found) {
      const pair = make("div");
      pair.append(make("dt", "", title), make("dd", "", value ?? "–"));
      list.append(pair);
    }
    return list;
  };

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

  const warnings = (entry) => {
    const list = make("table", "plain");
    const head = list.createTHead().insertRow();
    head.append(...["File", "Found", "What to do"].map((t) => make("th", "", t)));
    const rest = list.createTBody();
    for (const [file, found, action] of entry.warnings) {
      rest.insertRow().append(make("td", "mono", file), make("td", "", found), make("td", "", action));
    }
    return list;
  };

  const sources = (entry) => {
    const list = make("table", "plain");
    const head = list.createTHead().insertRow();
    head.append(...["Role", "File", "Mean ± σ", "Size", "SHA-256"].map((t) => make("th", "", t)));
    const rest = list.createTBody();
    for (const [role, file, bytes, digest] of entry.sources) {
      const [mean, std] = entry.statistics[role] ?? [];
      const line = rest.insertRow();
      line.append(make("th", "", data.names[role] ?? role), make("td", "mono", file));
      line.append(make("td", "", mean === undefined ? "–" : `${mean} ± ${std}`), make("td", "", size(bytes)));
      line.append(make("td", "mono", `${digest.slice(0, 16)}…`));
      line.lastChild.title = digest;
    }
    return list;
  };

  const open = (index) => {
    current = index;
    const entry = data.cases[index];
    byId("case-title").textContent = entry.id;
    dialog.querySelector(".position").textContent = `${shown.indexOf(index) + 1} of ${shown.length}`;
    const content = [];
    const source = picture(index);
    if (source) {
      const image = make("img");
      image.src = source;
      image.alt = `${data.shown} of ${entry.id} with its regions`;
      const planes = make("div", "planes");
      planes.append(...["axial", "coronal", "sagittal"].map((plane) => make("span", "", plane)));
      content.push(image, planes);
    }
    content.push(flagList(entry), facts(entry));
    const charts = make("div", "charts four");
    charts.append(...Object.entries(entry.curves).map(([name, bytes]) => chart(name, bytes)));
    if (charts.childElementCount) content.push(make("h3", "", "Normalised intensities: this case, and the band of all cases"), charts);
    if (entry.warnings.length) content.push(make("h3", "", "Warnings about its files"), warnings(entry));
    content.push(make("h3", "", "Files"), sources(entry));
    dialog.querySelector(".body").replaceChildren(...content);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };

  const step = (by) => {
    const next = shown[shown.indexOf(current) + by];
    if (next !== undefined) open(next);
  };

  body.addEventListener("click", (event) => {
    const made = event.target.closest("tr");
    if (made && !String(getSelection())) open(Number(made.dataset.index));
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog || button?.dataset.close !== undefined) dialog.close();
    else if (button) step(Number(button.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  sort("flags", -1);
})();
