"use strict";
// Tells the values under the pointer, and switches the theme. The charts themselves are in the page, and need no script.
addEventListener("error", (event) => document.documentElement.setAttribute("data-error", event.message));

for (const plot of document.querySelectorAll(".plot")) {
  const source = plot.querySelector("script.points");
  if (!source) continue;
  const data = JSON.parse(source.textContent);
  const svg = plot.querySelector("svg");
  const cursor = svg.querySelector("line.cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  plot.append(tip);

  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const at = (event.clientX - box.left) * scale;
    let best = 0;
    data.x.forEach((x, place) => { if (Math.abs(x - at) < Math.abs(data.x[best] - at)) best = place; });
    cursor.setAttribute("x1", data.x[best]);
    cursor.setAttribute("x2", data.x[best]);
    cursor.style.opacity = 0.5;
    const head = document.createElement("b");
    head.textContent = data.labels[best];
    const rows = data.series.filter((series) => series.texts[best] !== null).map((series) => {
      const row = document.createElement("span");
      row.className = "c" + series.colour;
      const value = document.createElement("i");
      value.textContent = series.texts[best];
      row.append(series.name || "value", value);
      return row;
    });
    tip.replaceChildren(head, ...rows);
    const left = data.x[best] / scale;
    const beside = left + 14 + tip.offsetWidth > box.width ? left - 14 - tip.offsetWidth : left + 14;
    tip.style.transform = `translate(${Math.max(0, beside)}px, 8px)`;
    tip.style.opacity = rows.length ? 1 : 0;
  };
  const hide = () => { tip.style.opacity = 0; cursor.style.opacity = 0; };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}

const root = document.documentElement;
document.querySelector("button.theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
root.setAttribute("data-ready", document.querySelectorAll(".plot .tip").length);
