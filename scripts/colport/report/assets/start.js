// The view of the tables lives in the link: #table-latency?latency.sort=-p50_ms&latency.q=int8

document.documentElement.classList.add("js");

const readLink = () => {
  const [place, view = ""] = location.hash.slice(1).split("?");
  return { place, view: new URLSearchParams(view) };
};

const writeLink = (place) => {
  const view = new URLSearchParams(tables.flatMap((table) => [...table.state()]));
  const text = view.size ? `?${view}` : "";
  history.replaceState(null, "", place || text ? `#${place}${text}` : location.pathname + location.search);
};

const tables = [...document.querySelectorAll(".table-block")]
  .filter((block) => block.querySelector("tbody"))
  .map((block) => new Table(block, () => writeLink(block.id)));

const followLink = () => {
  const { place, view } = readLink();
  if (location.hash.includes("?")) {
    tables.forEach((table) => table.restore(view));
    document.getElementById(place)?.scrollIntoView();
  } else writeLink(place);
};

document.querySelectorAll("figure.chart").forEach(enhanceChart);
addEventListener("hashchange", followLink);
if (location.hash) followLink();
