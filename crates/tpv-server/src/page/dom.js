/* Small things that every part of the page needs. */

export const $ = (id) => document.getElementById(id);

/* What is remembered between visits. */
export const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* private windows forget */ } },
};

export function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

/* The sentences above everything, one of each kind; an empty one takes its kind away. */
const warnings = {};
export function warn(kind, text) {
  warnings[kind] = text;
  const all = Object.values(warnings).filter(Boolean).join(" ");
  $("warning").hidden = !all;
  if ($("warning").textContent !== all) $("warning").textContent = all;
}

/* What a screen reader says. */
export function announce(text) { $("live").textContent = text; }

export function seconds(value) {
  if (value >= 90) return `${Math.round(value / 60)} min`;
  return value >= 10 ? `${Math.round(value)} s` : `${value.toFixed(1)} s`;
}
