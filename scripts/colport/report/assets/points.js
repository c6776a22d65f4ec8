// Charts: the row behind a mark, by pointer and by keyboard, and the chart's file.

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true"); // its words are the mark's own label
document.body.append(tip);

const hideTip = () => {
  tip.hidden = true;
};

const showTip = (mark) => {
  const lines = mark.getAttribute("aria-label").split("; ");
  tip.replaceChildren(...lines.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), width - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(above > 4 ? above : box.bottom + 6) + window.scrollY}px`;
};

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

const enhanceChart = (chart) => {
  const group = chart.querySelector(".points");
  const marks = [...group.children];
  group.addEventListener("pointerover", (event) => event.target !== group && showTip(event.target));
  group.addEventListener("pointerout", hideTip);
  group.addEventListener("focusin", (event) => showTip(event.target));
  group.addEventListener("focusout", hideTip);
  group.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
    const current = marks.indexOf(event.target);
    const next = { Home: 0, End: marks.length - 1 }[event.key] ?? current + STEPS[event.key];
    if (Number.isNaN(next)) return;
    event.preventDefault();
    const mark = marks[(next + marks.length) % marks.length];
    event.target.setAttribute("tabindex", "-1");
    mark.setAttribute("tabindex", "0");
    mark.focus();
  });
  chart.querySelector(".download").addEventListener("click", () => save(dataOf(chart), "csv"));
};
