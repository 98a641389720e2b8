"use strict";
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
  const value = (row, place) => {
    const cell = row.cells[place], told = cell.dataset.value;
    return told === undefined ? cell.textContent : told === "" ? -Infinity : Number(told);
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falls = head.classList.contains("n"), before = head.getAttribute("aria-sort");
      const [one, other] = falls ? ["descending", "ascending"] : ["ascending", "descending"];
      const now = before === one ? other : before === other ? "" : one;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const rows = [...first];
      if (now) {
        head.setAttribute("aria-sort", now);
        const sign = now === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const x = value(a, place), y = value(b, place);
          return sign * (typeof x === "number" && typeof y === "number" ? (x > y) - (x < y) : String(x).localeCompare(String(y)));
        });
      }
      body.append(...rows);
    });
  });
}
