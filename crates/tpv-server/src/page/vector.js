/* What vector this is: where it comes from, how far it may be trusted, and whether it belongs to the model. */

import { $, make, warn } from "./dom.js";

/* The predictor whose error stands for the vector's, and the baseline that it must beat. */
const READINGS = ["theta + intercept", "reading head (theta with intercept)"], BASELINE = "position only";

export function showVector(vector) {
  $("vector").replaceChildren();
  $("error").textContent = "";
  for (const id of ["alpha", "race"]) $(id).disabled = !vector;
  if (!vector) {
    warn("vector", "This model has no vector, so neither progress nor the throttle work. Make one with `tpv learn` and the name of the model.");
    return;
  }
  warn("vector", vector.warnings.length ? `This vector may not belong to this model: ${vector.warnings.join(" ")}` : "");
  $("vector").append(table([], facts(vector)));
  if (vector.figures?.test?.length) showIntervals(vector.figures.test);
  else if (vector.figures?.held_out?.length) showParts(vector.figures.held_out);
}

/* Of a vector that was trained on states. */
function showIntervals(measured) {
  const error = (...names) => measured.find((row) => names.includes(row.predictor))?.figures?.mae;
  const note = "Measured on held-out problems, beside the baselines, with 95 % intervals. Error: mean absolute error of progress, where 1 is the whole thought. R²: share of the variance explained.";
  const rows = measured.map((row) => [row.predictor, interval(row.figures?.mae), interval(row.figures?.r2)]);
  $("vector").append(make("p", { className: "muted", textContent: note }), table(["Predictor", "Error", "R²"], rows));
  if (error(...READINGS) && error(BASELINE)) $("error").textContent = `measured error ${interval(error(...READINGS))} of the head alone; position alone ${interval(error(BASELINE))}`;
}

/* Of a vector that was trained on sums, which have squared errors alone. */
function showParts(measured) {
  const error = (...names) => measured.find((row) => names.includes(row.predictor))?.mse;
  const note = "Measured on every fifth of the problems by a fit on the others, beside the baselines. Squared error: mean squared error of progress, where 1 is the whole thought; in brackets over the fifths. R²: share of the variance explained.";
  const fifths = (parts) => parts?.length ? ` (${Math.min(...parts).toFixed(4)} to ${Math.max(...parts).toFixed(4)})` : "";
  const rows = measured.map((row) => [row.predictor, row.mse.toFixed(4) + fifths(row.mse_of_parts), row.r2 == null ? "–" : row.r2.toFixed(3)]);
  $("vector").append(make("p", { className: "muted", textContent: note }), table(["Predictor", "Squared error", "R²"], rows));
  if (error(...READINGS) != null && error(BASELINE) != null) $("error").textContent = `measured squared error ${error(...READINGS).toFixed(4)}; position alone ${error(BASELINE).toFixed(4)}`;
}

function facts(vector) {
  const efforts = Object.entries(vector.efforts).map(([name, alpha]) => `${name} ${alpha}`);
  return [
    ["Made for", vector.model || "unknown"],
    ["Trained on", `${vector.dataset || "unknown data"}: ${vector.traces} thoughts, ${vector.rows} tokens`],
    ["Calibrated", vector.calibrated ? "yes: percent and time left come with a 90 % interval" : "no: progress is smoothed only, and no time left is claimed"],
    ["One unit of alpha", `moves the logit of </think> by ${vector.think_end_shift_per_alpha.toFixed(3)} against the average token`],
    ...(efforts.length ? [["Effort levels", efforts.join(", ")]] : []),
  ];
}

function interval(figure) {
  if (figure?.value == null) return "–";
  const plain = (value) => value.toFixed(3).replace(/^-0\.000$/, "0.000");
  return `${plain(figure.value)} (${plain(figure.low)} to ${plain(figure.high)})`;
}

function table(head, rows) {
  const line = (cells, other) => {
    const row = make("tr");
    row.append(...cells.map((textContent, place) => make(place ? other : "th", { textContent })));
    return row;
  };
  const element = make("table");
  if (head.length) element.append(line(head, "th"));
  element.append(...rows.map((cells) => line(cells, "td")));
  const frame = make("div", { className: "table" });
  frame.append(element);
  return frame;
}
