// Sorting and searching of tables of class "sortable". Without it they are complete, in the order they come in.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];

  const key = (row, column) => {
    const text = row.cells[column].textContent;
    if (!headings[column].classList.contains("number")) return text;
    return text ? parseFloat(text.replaceAll(",", "")) : NaN;
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const missing = (value) => value === "" || Number.isNaN(value);

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
      const keyed = rows.map((row) => [key(row, column), row]);
      keyed.sort(([a], [b]) => missing(a) - missing(b) || (missing(a) ? 0 : order * compare(a, b)));
      body.append(...keyed.map(([, row]) => row));
    });
  });

  if (rows.length <= 15) continue; // all of them are seen
  const search = document.createElement("label");
  search.className = "search";
  const field = document.createElement("input");
  field.type = "search";
  const found = document.createElement("output");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const wanted = field.value.toLowerCase();
    let count = 0;
    rows.forEach((row, i) => (count += !(row.hidden = !texts[i].includes(wanted))));
    found.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  field.addEventListener("input", show);
  search.append("Search", field, found);
  table.parentElement.before(search);
  show();
}
