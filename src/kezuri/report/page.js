const options = {
  mode: "vega-lite",
  renderer: "svg",
  actions: false,
  defaultStyle: false,
  // Expressions are interpreted, so the page runs under a policy without eval.
  ast: true,
  tooltip: { disableDefaultStyle: true },
};
for (const place of document.querySelectorAll("[data-chart]")) {
  const source = document.getElementById(place.dataset.chart);
  vegaEmbed(place, JSON.parse(source.textContent), options).catch((error) => {
    place.textContent = "This chart could not be drawn: " + error.message;
  });
}
