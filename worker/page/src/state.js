// What the page knows: an overview, kept current by events, and the series of its charts. Pure.

export const SECTIONS = ["processors", "deployments", "jobs"];

export function empty() {
  return { time: 0, head: null, processors: {}, deployments: {}, jobs: {}, history: { fields: {}, times: [], series: {} } };
}

// One event of the server: `update` sets and drops items of a section, `reset` begins anew.
export function updated(state, event) {
  const next = { ...state, time: event.time };
  if (event.reset) for (const section of SECTIONS) next[section] = {};
  if (event.head) next.head = event.head;
  for (const section of SECTIONS) {
    const set = event.set?.[section];
    const drop = event.drop?.[section];
    if (!set && !drop) continue;
    const items = { ...next[section], ...set };
    for (const id of drop ?? []) delete items[id];
    next[section] = items;
  }
  return next;
}

export function withHistory(state, history) {
  return { ...state, history };
}

// Columns grow together: a series that is new has nothing before, one that is gone has nothing from now on.
export const MOST_SAMPLES = 720;

export function sampled(state, sample) {
  const { fields, times, series } = state.history;
  const from = Math.max(0, times.length + 1 - MOST_SAMPLES);
  const grown = {};
  for (const name of new Set([...Object.keys(series), ...Object.keys(sample.values)])) {
    const width = (fields[name.split(":")[0]] ?? sample.values[name] ?? []).length;
    const before = series[name] ?? Array.from({ length: width }, () => Array(times.length).fill(null));
    const values = sample.values[name] ?? Array(width).fill(null);
    const columns = before.map((column, n) => [...column.slice(from), values[n] ?? null]);
    if (columns.some((column) => column.some((value) => value !== null))) grown[name] = columns;
  }
  return { ...state, history: { fields, times: [...times.slice(from), sample.time], series: grown } };
}

// {times, columns by field name} of one series; null without any value.
export function series(history, name) {
  const columns = history.series[name];
  if (!columns) return null;
  const names = history.fields[name.split(":")[0]];
  return { times: history.times, ...Object.fromEntries(names.map((field, n) => [field, columns[n]])) };
}

export const byLevel = { error: 0, warning: 1, busy: 2, ok: 3, idle: 4 };

export function matching(items, text, words) {
  const wanted = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return items.filter((item) => {
    const said = words(item).join(" ").toLowerCase();
    return wanted.every((word) => said.includes(word));
  });
}

export function queueOf(deployment) {
  if (deployment.liveQueue !== undefined) return deployment.liveQueue;
  return sum(deployment.models, "queue");
}

export function rateOf(deployment) {
  if (deployment.liveThroughput !== undefined) return deployment.liveThroughput;
  return sum(deployment.models, "throughput");
}

function sum(models, field) {
  const known = (models ?? []).map((model) => model[field]).filter((value) => value !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : undefined;
}

// Items, or those of one task, that are through.
export function doneOf(job) {
  return (job.succeeded ?? 0) + (job.failed ?? 0);
}

export function shareOf(job) {
  return job.total ? doneOf(job) / job.total : 0;
}

// How many shards of each kind a job has: ranges are inclusive.
export function shardsIn(ranges) {
  return (ranges ?? []).reduce((count, [first, last]) => count + last - first + 1, 0);
}
