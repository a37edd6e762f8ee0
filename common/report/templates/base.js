/* What the reports' scripts share: text, numbers, a table of cases that sorts and filters, and a
   dialog for one case. Text from files is only set through `textContent`: it never becomes markup. */

const byId = (id) => document.getElementById(id);
const block = (id) => JSON.parse(byId(id).textContent);

const make = (tag, style = "", text = "") => {
  const element = document.createElement(tag);
  if (style) element.className = style;
  if (text !== "") element.textContent = text;
  return element;
};

const makeSvg = (tag, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};

const millilitres = (ml) =>
  ml === 0 ? "0" : ml < 0.01 ? "< 0.01" : ml.toFixed(ml >= 100 ? 0 : ml >= 10 ? 1 : 2);
const percent = (share) =>
  share === 0 ? "0" : share < 0.0005 ? "< 0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

// A cell of the table of cases; null is shown as a dash.
const cell = (style, text) => {
  const made = make("td", style, text ?? "–");
  made.setAttribute("role", "cell");
  if (text === null) made.classList.add("none");
  return made;
};

// The cell of a case's name, which opens it, above its patient's.
const nameCell = (entry) => {
  const made = cell("", "");
  const button = make("button", "name", entry.id);
  button.type = "button";
  made.append(button);
  if (entry.patient !== entry.id) made.append(make("span", "second", entry.patient));
  return made;
};

// So many chips at most, of which the last one may tell of the others.
const few = (chips, most) => {
  if (chips.length <= most) return chips;
  const rest = chips.slice(most - 1);
  const more = make("span", "chip note", `+ ${rest.length} more`);
  more.title = rest.map((chip) => chip.textContent).join("\n");
  return [...chips.slice(0, most - 1), more];
};

// A table with a head of titles, whose rows are lists of [style, text]; the style `head` is a row's head.
const plainTable = (titles, rows) => {
  const list = make("table", "plain");
  list.createTHead().insertRow().append(...titles.map((title) => make("th", "", title)));
  const rest = list.createTBody();
  for (const cells of rows) {
    rest.insertRow().append(...cells.map(([style, text]) => (style === "head" ? make("th", "", text) : make("td", style, text))));
  }
  return list;
};

const factList = (facts) => {
  const list = make("dl", "facts");
  for (const [title, value] of facts) {
    const pair = make("div");
    pair.append(make("dt", "", title), make("dd", "", value ?? "–"));
    list.append(pair);
  }
  return list;
};

/* The table of cases. Its page has the elements `table` (with buttons `data-sort`), `order` (a
   select), `find`, `shown`, `nothing` and one select for each other filter.
   cases: of each, `id` and `patient`; columns: by key, a case's value to sort by, or null;
   row: makes a case's <tr>; filters: by element id, (case, chosen value) → shown?;
   worstFirst: keys of columns whose first click sorts downwards. */
class CaseTable {
  constructor({ cases, columns, row, filters, worstFirst }) {
    Object.assign(this, { cases, columns, filters, worstFirst });
    this.table = byId("table");
    this.order = cases.map((_, index) => index);
    this.shown = [];
    this.text = new Intl.Collator("en", { numeric: true });
    this.rows = cases.map((entry, index) => {
      const made = row(entry, index);
      made.setAttribute("role", "row");
      made.dataset.index = index;
      return made;
    });
    this.#titleCells();
    this.#listen();
  }

  // On narrow screens, which hide the table's header, each value has a title of its own.
  #titleCells() {
    const titles = [...this.#heads()].map((header) => header.dataset.name ?? header.textContent);
    for (const { cells } of this.rows) {
      [...cells].forEach((one, column) => (one.dataset.title = titles[column]));
    }
  }

  #heads() {
    return [...this.table.tHead.rows].at(-1).cells;
  }

  #listen() {
    for (const button of this.table.querySelectorAll("[data-sort]")) {
      const name = button.closest("th").dataset.name ?? button.textContent;
      for (const [direction, arrow] of [[1, "↑"], [-1, "↓"]]) {
        byId("order").append(new Option(`${name} ${arrow}`, `${button.dataset.sort} ${direction}`));
      }
    }
    this.table.tHead.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-sort]");
      if (!button) return;
      const column = button.dataset.sort;
      const sorted = button.closest("th").getAttribute("aria-sort");
      this.sort(column, sorted === null ? (this.worstFirst.includes(column) ? -1 : 1) : sorted === "ascending" ? -1 : 1);
    });
    byId("order").addEventListener("change", ({ target }) => {
      const [column, direction] = target.value.split(" ");
      this.sort(column, Number(direction));
    });
    byId("find").addEventListener("input", () => this.filter());
    for (const id of Object.keys(this.filters)) byId(id).addEventListener("change", () => this.filter());
  }

  // Cases without a value come last in both directions.
  #compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (typeof a === "number" ? a - b : this.text.compare(a, b));
  }

  sort(column, direction) {
    const keys = this.cases.map(this.columns[column]);
    this.order.sort((a, b) => this.#compare(keys[a], keys[b], direction) || a - b);
    for (const button of this.table.querySelectorAll("[data-sort]")) {
      const header = button.closest("th");
      if (button.dataset.sort !== column) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    }
    byId("order").value = `${column} ${direction}`;
    this.table.tBodies[0].append(...this.order.map((index) => this.rows[index]));
    this.filter();
  }

  #matches(entry) {
    const wanted = byId("find").value.trim().toLowerCase();
    if (wanted && !`${entry.id}\n${entry.patient}`.toLowerCase().includes(wanted)) return false;
    return Object.entries(this.filters).every(([id, shows]) => !byId(id).value || shows(entry, byId(id).value));
  }

  filter() {
    this.shown = this.order.filter((index) => this.#matches(this.cases[index]));
    const visible = new Set(this.shown);
    this.rows.forEach((made, index) => (made.hidden = !visible.has(index)));
    const [some, all] = [this.shown.length, this.cases.length].map((count) => count.toLocaleString("en"));
    const noun = all === "1" ? "case" : "cases";
    byId("shown").textContent = some === all ? `${all} ${noun}` : `${some} of ${all} ${noun}`;
    byId("nothing").hidden = this.shown.length > 0;
  }

  // Show the cases that one filter leaves, as when a number of cases is clicked.
  jump(id, value) {
    for (const other of ["find", ...Object.keys(this.filters)]) byId(other).value = "";
    byId(id).value = value;
    this.filter();
    byId("cases").scrollIntoView();
  }
}

/* The dialog of one case of a table; `content(case, index)` gives its elements. */
class CaseDialog {
  constructor(table, content) {
    Object.assign(this, { table, content, current: 0 });
    this.dialog = byId("case");
    table.table.tBodies[0].addEventListener("click", ({ target }) => {
      const made = target.closest("tr");
      if (made && !String(getSelection())) this.open(Number(made.dataset.index));
    });
    this.dialog.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (target === this.dialog || button?.dataset.close !== undefined) this.dialog.close();
      else if (button?.dataset.step) this.#step(Number(button.dataset.step));
    });
    this.dialog.addEventListener("keydown", ({ key, target }) => {
      if (["INPUT", "SELECT"].includes(target.tagName)) return; // arrows change its value
      if (key === "ArrowLeft") this.#step(-1);
      if (key === "ArrowRight") this.#step(1);
    });
  }

  open(index) {
    this.current = index;
    const entry = this.table.cases[index];
    byId("case-title").textContent = entry.id;
    const shown = this.table.shown;
    this.dialog.querySelector(".position").textContent = `${shown.indexOf(index) + 1} of ${shown.length}`;
    this.dialog.querySelector(".body").replaceChildren(...this.content(entry, index));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
  }

  #step(by) {
    const { shown } = this.table;
    const next = shown[shown.indexOf(this.current) + by];
    if (next !== undefined) this.open(next);
  }
}
