// Charts over time and by batch size, drawn by uPlot in the page's own colours.
import uPlot from "uplot";
import { html } from "htm/preact";
import { useEffect, useRef } from "preact/hooks";
import { clock, number } from "./format.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6, 1e7];

function axes(unit, whole) {
  const line = { stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return [
    { ...line, space: 80, size: 26, values: (u, splits) => splits.map((v) => clock(v).slice(0, u.scales.x.max - u.scales.x.min < 120 ? 8 : 5)) },
    { ...line, size: 56, ...(whole ? { incrs: WHOLE } : {}), values: (_, splits) => splits.map((v) => (v === null ? "" : number(v, 2) + (unit ?? ""))) },
  ];
}

// `lines`: [{label, values, color, step, fill, dash}], `marks`: the times of thin lines with a dot.
export function TimeChart({ times, lines, unit, height = 140, marks = [], theme, label, max, whole }) {
  const place = useRef(null);
  const chart = useRef(null);
  const shape = JSON.stringify([lines.map((line) => [line.label, line.color, line.step]), unit, theme, height, max]);
  const shownMarks = useRef(marks);
  shownMarks.current = marks;
  const data = [times, ...lines.map((line) => line.values)];
  useEffect(() => {
    const options = {
      width: place.current.clientWidth,
      height,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, max ?? (high > 0 ? high * 1.15 : 1)] } },
      axes: axes(unit, whole),
      series: [
        { value: (_, v) => (v === null ? "" : clock(v)) },
        ...lines.map((line) => ({
          label: line.label,
          stroke: css(line.color),
          width: 2,
          fill: line.fill ? `color-mix(in srgb, ${css(line.color)} 14%, transparent)` : undefined,
          dash: line.dash,
          points: { show: (u) => u.data[0].length < 3 },
          spanGaps: true,
          paths: line.step ? uPlot.paths.stepped({ align: 1 }) : undefined,
          value: (_, v) => (v === null ? "–" : number(v, 2) + (unit ?? "")),
        })),
      ],
      hooks: { draw: [(u) => drawMarks(u, shownMarks.current)] },
    };
    chart.current = new uPlot(options, data, place.current);
    const watch = new ResizeObserver(() => place.current && chart.current?.setSize({ width: place.current.clientWidth, height }));
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      chart.current.destroy();
      chart.current = null;
    };
  }, [shape]);
  useEffect(() => {
    chart.current?.setData(data);
  });
  return html`<div class="chart" role="img" aria-label=${label} ref=${place}></div>`;
}

function drawMarks(u, marks) {
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = css("--accent");
  ctx.fillStyle = css("--accent");
  ctx.lineWidth = devicePixelRatio;
  for (const at of marks) {
    if (at < u.scales.x.min || at > u.scales.x.max) continue;
    const x = Math.round(u.valToPos(at, "x", true)) + 0.5;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, u.bbox.top);
    ctx.lineTo(x, u.bbox.top + u.bbox.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.arc(x, u.bbox.top + 4 * devicePixelRatio, 3 * devicePixelRatio, 0, 7);
    ctx.fill();
  }
  ctx.restore();
}

// A load table: a bar for each batch size, the best one in the accent colour.
export function LoadTable({ rows }) {
  const best = Math.max(...rows.map(([, speed]) => speed));
  return html`<table class="loadtable">
    <caption>images/s by batch size (method A1)</caption>
    <thead><tr><th>batch</th><th class="wide">images/s</th><th></th><th>services at once</th></tr></thead>
    <tbody>
      ${rows.map(
        ([size, speed, services]) => html`<tr key=${size} class=${speed === best ? "best" : ""}>
          <th>${size}</th>
          <td class="wide"><span class="bar"><i style=${{ width: `${(100 * speed) / best}%` }}></i></span></td>
          <td class="number">${number(speed, 1)}</td>
          <td class="number">${services}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

const TERM_COLORS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];

// What a load is made of: its terms side by side, and those that lost beneath it.
export function Receipt({ pod }) {
  const receipt = pod.receipt;
  if (!receipt) return html`<p class="quiet">${pod.message || "no receipt: it was not placed by Batchwright"}</p>`;
  const terms = Object.entries(receipt.terms ?? {}).filter(([, value]) => value >= 0.005);
  const losers = receipt.runnersUp ?? [];
  const scale = Math.max(1e-9, receipt.load ?? 0, ...losers.map(([, , load]) => load ?? 0));
  return html`<div class="receipt">
    <p>${receipt.reason}</p>
    <div class="sum">
      <span class="who">${pod.node || "any node"}</span>
      <span class="stack" role="img" aria-label=${terms.map(([name, value]) => `${name} ${value}`).join(", ")}>
        ${terms.map(
          ([name, value], n) => html`<i key=${name} title=${`${name} ${value}`} style=${{ width: `${(100 * value) / scale}%`, background: `var(${TERM_COLORS[n % 6]})` }}></i>`,
        )}
      </span>
      <b>${number(receipt.load, 2)}</b>
    </div>
    ${losers.map(
      ([node, , load]) => html`<div class="sum lost" key=${node}>
        <span class="who">${node}</span>
        <span class="stack"><i style=${{ width: `${(100 * (load ?? 0)) / scale}%` }}></i></span>
        <b>${number(load, 2)}</b>
      </div>`,
    )}
    <p class="legend">${terms.map(([name, value], n) => html`<span key=${name}><i style=${{ background: `var(${TERM_COLORS[n % 6]})` }}></i>${name} ${number(value, 2)}</span>`)}</p>
  </div>`;
}
