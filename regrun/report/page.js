"use strict";
// Tables that sort and filter. Without this the page says the same.
const value = (row, i) => row.cells[i].textContent;
const compare = (a, b, sign) => {  // words come after numbers, whichever way these are sorted
  const [x, y] = [parseFloat(a), parseFloat(b)];
  if (Number.isNaN(x) && Number.isNaN(y)) return sign * a.localeCompare(b);
  if (Number.isNaN(x)) return 1;
  return Number.isNaN(y) ? -1 : sign * (x - y);
};
const sort = (table, head, i) => {
  const down = head.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => compare(value(a, i), value(b, i), down ? -1 : 1));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
};
const filter = (table, words) => {
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
};
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head, i));
    head.append(button);
  });
  if (table.tBodies[0].rows.length < 12) continue;
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "filter rows";
  input.setAttribute("aria-label", `filter rows: ${table.getAttribute("aria-label")}`);
  input.addEventListener("input", () => filter(table, input.value.toLowerCase().split(/\s+/)));
  table.parentElement.before(input);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
