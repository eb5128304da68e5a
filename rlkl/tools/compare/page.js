"use strict";
// Hides groups and environments, and shows the values of curves. The page is complete without it.
const every = (selector) => document.querySelectorAll(selector);
const hidden = new Set();

for (const button of every(".controls button")) {
  button.addEventListener("click", () => {
    const group = button.dataset.group;
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    shown ? hidden.delete(group) : hidden.add(group);
    for (const part of every(`.chart .g${group}`)) part.classList.toggle("hidden", !shown);
  });
}

const choice = document.querySelector(".controls select");
choice?.addEventListener("change", () => {
  for (const figure of every("figure[data-env]")) {
    const other = choice.value !== "" && figure.dataset.env !== "" && figure.dataset.env !== choice.value;
    figure.classList.toggle("hidden", other);
  }
});

const groups = [...every(".controls button")].map((button) => ({
  name: button.textContent.trim(),
  color: button.dataset.color,
}));
const text = (value) => {
  if (value === null) return "∞";
  const digits = Math.abs(value) >= 1000 ? 0 : Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value) || 1)));
  return value.toLocaleString("en", { maximumFractionDigits: Math.min(digits, 8) });
};

const nearest = (chart, line, x) => {
  // A step function holds its value until the next point; other curves use the nearest point.
  let found = -1;
  for (let i = 0; i < line.x.length; i++) {
    if (chart.steps ? line.x[i] <= x : found < 0 || Math.abs(line.x[i] - x) < Math.abs(line.x[found] - x)) found = i;
  }
  return found;
};

const read = (svg, chart, event) => {
  const figure = svg.closest("figure");
  const box = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / box.width;
  const place = Math.min(Math.max((event.clientX - box.left) * scale, chart.left), chart.right);
  const x = chart.x[0] + ((place - chart.left) / (chart.right - chart.left)) * (chart.x[1] - chart.x[0]);
  const rows = [];
  for (const line of chart.lines) {
    const i = nearest(chart, line, x);
    const beyond = x > line.x[line.x.length - 1] || x < line.x[0];
    if (i < 0 || beyond || hidden.has(String(line.group))) continue;
    const row = document.createElement("div");
    const square = document.createElement("i");
    square.style.background = groups[line.group].color;
    const band = line.low.length && line.low[i] !== null ? ` [${text(line.low[i])}, ${text(line.high[i])}]` : "";
    row.append(square, `${groups[line.group].name}: ${text(line.y[i])}${band}`);
    rows.push(row);
  }
  clear(figure);
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cross.setAttribute("class", "cross");
  cross.setAttribute("d", `M${place} ${chart.top}V${chart.bottom}`);
  svg.append(cross);
  const reading = document.createElement("div");
  reading.className = "reading";
  const head = document.createElement("div");
  head.textContent = `${chart.name}: ${text(x)}`;
  reading.append(head, ...rows);
  figure.append(reading);
  // Below the chart, so that it covers no curve.
  const most = figure.clientWidth - reading.offsetWidth;
  reading.style.left = `${Math.max(0, Math.min(place / scale - reading.offsetWidth / 2, most))}px`;
  reading.style.top = `${figure.clientHeight}px`;
};

const clear = (figure) => {
  for (const part of figure.querySelectorAll(".reading, .cross")) part.remove();
};

for (const svg of every("svg[data-chart]")) {
  const chart = JSON.parse(svg.dataset.chart);
  for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, (event) => read(svg, chart, event));
  svg.addEventListener("pointerleave", (event) => {
    // Lifting a finger is also a leave event; the reading then stays until the next touch.
    if (event.pointerType !== "touch") clear(svg.closest("figure"));
  });
}
document.addEventListener("pointerdown", (event) => {
  for (const figure of every("figure")) if (!figure.contains(event.target)) clear(figure);
});
