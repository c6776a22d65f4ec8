"use strict";
(() => {
  document.documentElement.classList.add("js");

  // A table that shows more rows scrolls inside its own box.
  const TALL_ROWS = 40;

  const compare = (numeric, a, b) =>
    numeric ? a - b : a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" });

  // What is missing stays at the end in both directions.
  const sorted = (data, column, direction) => {
    const numeric = data.numeric[column];
    const order = data.rows.map((_, index) => index);
    if (!direction) return order;
    const keys = data.rows.map((row) => (numeric && row[column] !== "" ? Number(row[column]) : row[column]));
    const missing = (key) => key === "" || Number.isNaN(key);
    return order.sort((a, b) => {
      const gap = missing(keys[a]) - missing(keys[b]);
      if (gap || missing(keys[a])) return gap || a - b;
      return direction * compare(numeric, keys[a], keys[b]) || a - b;
    });
  };

  const csv = (data) => {
    const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [data.columns, ...data.rows].map((row) => row.map(quote).join(",") + "\n").join("");
  };

  const markdown = (data) => {
    const escape = (text) => text.replace(/[\\|<>*_`[\]]/g, "\\$&").replace(/\s+/g, " ");
    const line = (row) => `| ${row.join(" | ")} |\n`;
    return (
      line(data.columns) +
      line(data.numeric.map((numeric) => (numeric ? "---:" : "---"))) +
      data.rows.map((row) => line(row.map(escape))).join("")
    );
  };

  const download = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const enhance = (block) => {
    const source = block.querySelector("script");
    if (!source) return;
    const data = JSON.parse(source.textContent);
    const body = block.querySelector("tbody");
    const rows = [...body.rows];
    const headers = [...block.querySelectorAll("thead th")];
    const output = block.querySelector("output");
    const box = block.querySelector(".scroll");

    const sortBy = (column) => {
      // First the best on top, then the worst, then the table's own order.
      const first = data.better[column] === "higher" ? -1 : 1;
      const current = { ascending: 1, descending: -1 }[headers[column].getAttribute("aria-sort")] || 0;
      const next = current === 0 ? first : current === first ? -first : 0;
      headers.forEach((header) => header.removeAttribute("aria-sort"));
      if (next) headers[column].setAttribute("aria-sort", next > 0 ? "ascending" : "descending");
      body.append(...sorted(data, column, next).map((index) => rows[index]));
    };
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(column));
      header.append(button);
    });

    const texts = data.rows.map((row, index) => `${row.join(" ")} ${rows[index].textContent}`.toLowerCase());
    const search = block.querySelector(".filter input");
    const unsupported = block.querySelector(".unsupported-rows input");
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const kept = !unsupported || unsupported.checked || !row.classList.contains("unsupported");
        row.hidden = !kept || !words.every((word) => texts[index].includes(word));
        shown += !row.hidden;
      });
      const total = `${rows.length} row${rows.length === 1 ? "" : "s"}`;
      box.classList.toggle("tall", shown > TALL_ROWS);
      output.textContent = shown < rows.length ? `${shown} of ${total}` : total;
    };
    search.addEventListener("input", filter);
    unsupported?.addEventListener("change", filter);
    filter();

    block.querySelector(".all-columns input")?.addEventListener("change", (event) => {
      block.classList.toggle("wide", event.target.checked);
    });
    block.querySelector(".downloads").addEventListener("click", (event) => {
      const format = event.target.dataset.format;
      if (format === "csv") download(`${data.name}.csv`, "text/csv", csv(data));
      if (format === "md") download(`${data.name}.md`, "text/markdown", markdown(data));
    });
  };
  document.querySelectorAll(".table-block").forEach(enhance);

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const hide = () => {
    tip.hidden = true;
  };
  const show = (point) => {
    tip.replaceChildren(
      ...point.getAttribute("aria-label").split("; ").map((part) => {
        const line = document.createElement("span");
        line.textContent = part;
        return line;
      }),
    );
    tip.hidden = false;
    const box = point.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), width - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 4 ? above : box.bottom + 6) + window.scrollY}px`;
  };
  document.querySelectorAll(".points").forEach((group) => {
    const points = [...group.children];
    group.addEventListener("pointerover", (event) => event.target !== group && show(event.target));
    group.addEventListener("pointerout", hide);
    group.addEventListener("focusin", (event) => show(event.target));
    group.addEventListener("focusout", hide);
    group.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const current = points.indexOf(event.target);
      const next = points[(current + step + points.length) % points.length];
      event.target.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
})();
