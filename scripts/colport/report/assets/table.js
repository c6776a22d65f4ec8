// One table: its rows sorted and filtered, its columns shown or hidden.

// A table that shows more rows scrolls inside its own box.
const TALL_ROWS = 40;
// Columns with a list of their values to choose from, if there are not too many.
const CHOICES = ["model", "variant", "provider", "dataset", "kind", "graph", "embeddings", "stage", "judgement", "run", "status"];
const MOST_CHOICES = 60;

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const compare = (numeric, a, b) =>
  numeric ? a - b : a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" });

// What is missing stays at the end in both directions.
const order = (data, column, direction) => {
  const numeric = data.numeric[column];
  const indices = data.rows.map((_, index) => index);
  if (!direction) return indices;
  const keys = data.rows.map((row) => (numeric && row[column] !== "" ? Number(row[column]) : row[column]));
  const missing = (key) => key === "" || Number.isNaN(key);
  return indices.sort((a, b) => {
    const gap = missing(keys[a]) - missing(keys[b]);
    if (gap || missing(keys[a])) return gap || a - b;
    return direction * compare(numeric, keys[a], keys[b]) || a - b;
  });
};

class Table {
  // changed() is called after the reader changed the view.
  constructor(block, changed) {
    this.data = dataOf(block);
    this.block = block;
    this.changed = changed;
    this.body = block.querySelector("tbody");
    this.rows = [...this.body.rows];
    this.headers = [...block.querySelectorAll("thead th")];
    this.labels = this.headers.map((header) => header.textContent);
    this.search = block.querySelector(".filter input");
    this.unsupported = block.querySelector(".unsupported-rows input");
    // Where the summary's rows are cards, each figure stands beside its column's name.
    if (this.data.name === "summary") {
      this.rows.forEach((row) => this.labels.forEach((label, column) => (row.cells[column].dataset.label = label)));
    }
    this.texts = this.rows.map((row, index) => `${this.data.rows[index].join(" ")} ${row.textContent}`.toLowerCase());
    this.sheet = new CSSStyleSheet();
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, this.sheet];
    this.headers.forEach((header, column) => this.addSortButton(header, column));
    this.addChoices();
    this.addMenu();
    this.addReset();
    this.search.addEventListener("input", () => this.update());
    this.unsupported?.addEventListener("change", () => this.update());
    block.querySelector(".downloads").addEventListener("click", (event) => {
      if (event.target.dataset.format) save(this.data, event.target.dataset.format);
    });
    this.reset();
  }

  addSortButton(header, column) {
    const button = element("button", { type: "button" }, ...header.childNodes);
    button.addEventListener("click", () => {
      // First the best on top, then the worst, then the table's own order.
      const first = this.data.better[column] === "higher" ? -1 : 1;
      const current = this.sorted.column === column ? this.sorted.direction : 0;
      this.sorted = { column, direction: current === 0 ? first : current === first ? -first : 0 };
      this.update();
    });
    header.append(button);
  }

  addChoices() {
    this.choices = new Map();
    CHOICES.forEach((name) => {
      const column = this.data.columns.indexOf(name);
      if (column < 0) return;
      const values = [...new Set(this.data.rows.map((row) => row[column]))].filter(Boolean);
      if (values.length < 2 || values.length > MOST_CHOICES) return;
      const label = this.labels[column];
      const select = element("select", { ariaLabel: `${label} of ${this.data.name}`, autocomplete: "off" });
      select.append(element("option", { value: "", textContent: `${label}: all` }));
      values.forEach((value) => select.append(element("option", { value, textContent: value })));
      select.addEventListener("change", () => this.update());
      this.choices.set(name, { column, select });
    });
    this.block.querySelector(".filter").after(...[...this.choices.values()].map(({ select }) => select));
  }

  addMenu() {
    const boxes = element("fieldset", {}, element("legend", { className: "hidden", textContent: "Columns shown" }));
    this.boxes = this.labels.map((label) => {
      const box = element("input", { type: "checkbox", autocomplete: "off" });
      box.addEventListener("change", () => this.update());
      boxes.append(element("label", { className: "check" }, box, label));
      return box;
    });
    const menu = element("details", { className: "menu columns-menu" }, element("summary", { textContent: "Columns" }), boxes);
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      menu.open = false;
      menu.firstChild.focus();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
    this.block.querySelector("output").before(menu);
  }

  addReset() {
    this.resetButton = element("button", { type: "button", className: "reset", textContent: "Reset" });
    this.resetButton.setAttribute("aria-label", `Reset the view of ${this.data.name}`);
    this.resetButton.addEventListener("click", () => {
      this.reset();
      this.search.focus();
      this.changed(this);
    });
    this.block.querySelector("output").before(this.resetButton);
  }

  reset() {
    this.sorted = { column: -1, direction: 0 };
    this.search.value = "";
    if (this.unsupported) this.unsupported.checked = false;
    this.choices.forEach(({ select }) => (select.value = ""));
    this.boxes.forEach((box, column) => (box.checked = this.data.shown[column]));
    this.show();
  }

  update() {
    this.show();
    this.changed(this);
  }

  show() {
    const { column, direction } = this.sorted;
    this.headers.forEach((header, index) => {
      if (direction && index === column) header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
    const sorting = `${column} ${direction}`;
    if (this.drawn !== sorting) this.body.append(...order(this.data, column, direction).map((index) => this.rows[index]));
    this.drawn = sorting;

    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...this.choices.values()].filter(({ select }) => select.value);
    const all = !this.unsupported || this.unsupported.checked || this.choices.get("status")?.select.value === "unsupported";
    let shown = 0;
    this.rows.forEach((row, index) => {
      const kept =
        (all || !row.classList.contains("unsupported")) &&
        chosen.every(({ column, select }) => this.data.rows[index][column] === select.value) &&
        words.every((word) => this.texts[index].includes(word));
      row.hidden = !kept;
      shown += kept;
    });
    const total = `${this.rows.length} row${this.rows.length === 1 ? "" : "s"}`;
    this.block.querySelector(".scroll").classList.toggle("tall", shown > TALL_ROWS);
    this.block.querySelector("output").textContent = shown < this.rows.length ? `${shown} of ${total}` : total;

    const hidden = this.boxes.map((box, index) => (box.checked ? "" : `#${this.block.id} tr > :nth-child(${index + 1})`));
    const selectors = hidden.filter(Boolean).join(", ");
    this.sheet.replaceSync(selectors ? `${selectors} { display: none; }` : "");
    this.resetButton.hidden = ![...this.state().keys()].length;
  }

  // What differs from the view that the page opens with.
  state() {
    const view = new URLSearchParams();
    const put = (key, value) => value && view.set(`${this.data.name}.${key}`, value);
    const { column, direction } = this.sorted;
    if (direction) put("sort", `${direction < 0 ? "-" : ""}${this.data.columns[column]}`);
    put("q", this.search.value.trim());
    if (this.unsupported?.checked) put("unsupported", "1");
    this.choices.forEach(({ select }, name) => put(name, select.value));
    const toggled = (checked) =>
      this.data.columns.filter((_, index) => this.boxes[index].checked === checked && this.data.shown[index] !== checked);
    put("show", toggled(true).join(","));
    put("hide", toggled(false).join(","));
    return view;
  }

  restore(view) {
    const get = (key) => view.get(`${this.data.name}.${key}`) ?? "";
    const names = (key) => get(key).split(",");
    const sort = get("sort");
    const column = this.data.columns.indexOf(sort.replace(/^-/, ""));
    this.sorted = { column, direction: column < 0 ? 0 : sort.startsWith("-") ? -1 : 1 };
    this.search.value = get("q");
    if (this.unsupported) this.unsupported.checked = get("unsupported") === "1";
    this.choices.forEach(({ select }, name) => {
      select.value = get(name);
      if (select.selectedIndex < 0) select.value = "";
    });
    const [show, hide] = [names("show"), names("hide")];
    this.data.columns.forEach((name, index) => {
      this.boxes[index].checked = (this.data.shown[index] || show.includes(name)) && !hide.includes(name);
    });
    this.show();
  }
}
