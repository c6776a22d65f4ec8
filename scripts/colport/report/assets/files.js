// Files made from the data that the page carries: nothing is fetched.

const csv = (data) => {
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [data.columns, ...data.rows].map((row) => row.map(quote).join(",") + "\n").join("");
};

const markdown = (data) => {
  const escape = (text) => text.replace(/[\\|<>*_`[\]]/g, "\\$&").replace(/\s+/g, " ");
  const line = (row) => `| ${row.join(" | ")} |\n`;
  return (
    line(data.columns) +
    line(data.columns.map((_, index) => (data.numeric?.[index] ? "---:" : "---"))) +
    data.rows.map((row) => line(row.map(escape))).join("")
  );
};

const save = (data, format) => {
  const [type, text] = format === "csv" ? ["text/csv", csv(data)] : ["text/markdown", markdown(data)];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = `${data.name}.${format}`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const dataOf = (block) => JSON.parse(block.querySelector('script[type="application/json"]').textContent);
