// Filters and sorts the table of slices; without it the whole table is there.
"use strict";
(() => {
  const table = document.getElementById("slice-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const [task, dimension, text, small, count] = ["task", "dimension", "text", "small", "count"]
    .map((name) => document.getElementById("slice-" + name));

  function filter() {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = Boolean(
        (task.value && row.dataset.task !== task.value) ||
        (dimension.value && row.dataset.dimension !== dimension.value) ||
        (small.checked && row.classList.contains("few")) ||
        (wanted && !row.textContent.toLowerCase().includes(wanted)));
      shown += row.hidden ? 0 : 1;
    }
    count.value = `${shown} of ${rows.length} rows`;
  }

  // Small slices stay last, and so does what has no value.
  function sort(header, place) {
    const isUp = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const keys = new Map(rows.map((row) => {
      const cell = row.cells[place];
      const value = cell.dataset.value;
      return [row, value === undefined ? cell.textContent.trim() : value === "" ? NaN : Number(value)];
    }));
    const compare = (a, b) => typeof a === "string" ? a.localeCompare(b) : a - b;
    rows.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      return one.classList.contains("few") - other.classList.contains("few") ||
        Number.isNaN(a) - Number.isNaN(b) || (isUp ? compare(a, b) : compare(b, a)) || 0;
    });
    body.append(...rows);
  }

  Array.from(table.tHead.rows[0].cells).forEach((header, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header, place));
    header.append(button);
  });
  for (const control of [task, dimension, text, small]) control.addEventListener("input", filter);
  document.querySelector(".controls").hidden = false;
  filter();
})();
