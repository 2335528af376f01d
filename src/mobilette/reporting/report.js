"use strict";
for (const button of document.querySelectorAll("[data-opens]")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.opens).showModal());
}
for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside it closes it; Escape does so anyway.
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
for (const table of document.querySelectorAll(".matrix")) {
  table.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    let cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    let [row, column] = [cell.parentElement.rowIndex, cell.cellIndex];
    do {
      row += step[0];
      column += step[1];
      cell = table.rows[row]?.cells[column];
    } while (cell && !cell.querySelector("button"));
    cell?.querySelector("button").focus();
  });
}
let opened = []; // for the paper alone
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
