// InferenceJobs: shards, rates, time to the end, and the items that failed.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { TimeChart } from "./charts.js";
import { clock, duration, milliseconds, number, plural, speed, words } from "./format.js";
import { Bar, Choices, Facts, Filter, Level, Nothing } from "./parts.js";
import { Changes } from "./overview.js";
import { doneOf, matching, series, shardsIn, shareOf } from "./state.js";

const MOST_SHARDS = 2000;

export function Jobs({ state, theme, chosen, choose }) {
  const [text, setText] = useState("");
  const all = Object.values(state.jobs).sort((a, b) => (a.endedAt ? 1 : 0) - (b.endedAt ? 1 : 0) || (b.startedAt ?? 0) - (a.startedAt ?? 0));
  if (!all.length) return html`<${Nothing} title="No InferenceJobs"><p>A data set that goes through a graph of tasks shows here: its shards, its rate, what is left, what failed.</p><//>`;
  const shown = matching(all, text, (each) => [each.id, each.reason, ...(each.tasks ?? []).map((task) => task.name)]);
  const one = state.jobs[chosen] ?? shown[0];
  return html`<div class="two">
    <div>
      <div class="tools"><${Filter} value=${text} onInput=${setText} placeholder="name, state, task" count=${plural(shown.length, "job")} /></div>
      <${Choices} items=${shown} chosen=${one?.id} choose=${choose} label="InferenceJobs">
        ${(each) => html`<${Level} level=${each.level} />
          <span class="grow"><b>${each.name}</b> <small>${each.namespace} · ${words(each.reason)}</small><br /><${Bar} value=${shareOf(each)} label=${`${Math.round(shareOf(each) * 100)} % done`} kind=${each.level} /></span>
          <span class="figure">${Math.round(shareOf(each) * 100)} %<br /><small>${each.etaS !== undefined ? duration(each.etaS) : ""}</small></span>`}
      <//>
    </div>
    ${one ? html`<${Job} one=${one} state=${state} theme=${theme} key=${one.id} />` : null}
  </div>`;
}

function Job({ one, state, theme }) {
  const past = series(state.history, `job:${one.id}`);
  const changes = (state.head.changes ?? []).filter((each) => each.about === one.id);
  const done = doneOf(one);
  return html`<article class="detail" tabindex="0" aria-label=${one.id}>
    <h2><${Level} level=${one.level} /> ${one.name} <small>${one.namespace}</small></h2>
    <p class="said">${one.reason}${one.message ? `: ${one.message}` : ""}</p>
    <div class="three">
      <p class="big"><b>${Math.round(shareOf(one) * 100)} %</b><span>${number(done)} of ${number(one.total)} items</span></p>
      <p class="big"><b>${speed(one.rate)}</b><span>items/s</span></p>
      <p class="big"><b>${one.endedAt ? duration(one.endedAt - (one.startedAt ?? one.endedAt)) : duration(one.etaS)}</b><span>${one.endedAt ? "from start to end" : "left at this rate"}</span></p>
      <p class=${`big ${one.failed ? "late" : ""}`}><b>${number(one.failed ?? 0)}</b><span>failed</span></p>
    </div>
    <${Bar} value=${shareOf(one)} label=${`${done} of ${one.total} items`} kind=${`thick ${one.level}`} />
    <${Facts} facts=${[
      ["started", one.startedAt ? `${clock(one.startedAt)}, ${duration(state.time - one.startedAt)} ago` : undefined],
      ["ended", one.endedAt ? clock(one.endedAt) : undefined],
      ["output", one.output],
    ]} />
    ${one.shards ? html`<${Shards} one=${one} />` : null}
    ${past && past.times.length > 1
      ? html`<div class="charts">
          <figure><figcaption>Items done</figcaption><${TimeChart} theme=${theme} label="items done" whole times=${past.times} max=${one.total} lines=${[{ label: "done", values: past.done, color: "--c1", fill: true }]} /></figure>
          <figure><figcaption>Items per second</figcaption><${TimeChart} theme=${theme} label="items per second" times=${past.times} lines=${[{ label: "items/s", values: past.rate, color: "--c2", fill: true }]} /></figure>
        </div>`
      : null}
    ${one.tasks?.length
      ? html`<h3>Tasks</h3><table class="rows">
          <thead><tr><th>task</th><th>runs on</th><th class="wide">done</th><th class="number">succeeded</th><th class="number">failed</th><th class="number">mean batch</th><th class="number">p95</th></tr></thead>
          <tbody>${one.tasks.map(
            (task) => html`<tr key=${task.name}><th>${task.name}</th><td>${task.kind === "Model" ? "model" : "CPU"}</td>
              <td class="wide"><${Bar} value=${one.total ? doneOf(task) / one.total : 0} label=${`${task.succeeded ?? 0} items`} /></td>
              <td class="number">${number(task.succeeded ?? 0)}</td><td class="number">${number(task.failed ?? 0)}</td>
              <td class="number">${task.meanBatch === undefined ? "" : number(task.meanBatch, 1)}</td><td class="number">${milliseconds(task.p95)}</td></tr>`,
          )}</tbody></table>`
      : null}
    ${one.failures?.length
      ? html`<h3>Items that failed${one.failed > one.failures.length ? html` <small>the first ${one.failures.length}; all are in the output's _errors</small>` : null}</h3>
          <table class="rows events"><tbody>${one.failures.map(
            (each) => html`<tr key=${each.item}><td class="about">${each.item}</td><td>${each.task}</td><td class="text">${each.message}</td></tr>`,
          )}</tbody></table>`
      : null}
    ${changes.length ? html`<h3>What happened</h3><${Changes} changes=${changes.slice(0, 20)} time=${state.time} />` : null}
  </article>`;
}

function Shards({ one }) {
  const done = shardsIn(one.shardsDone);
  const failed = shardsIn(one.shardsFailed);
  const state = new Map();
  const note = (ranges, kind) => {
    for (const [first, last] of ranges ?? []) for (let n = first; n <= Math.min(last, MOST_SHARDS); n++) state.set(n, kind);
  };
  note(one.shardsDone, "done");
  note(one.shardsFailed, "failed");
  const shown = Math.min(one.shards, MOST_SHARDS);
  return html`<h3>Shards <small>${number(done)} of ${number(one.shards)} written${failed ? `, ${failed} failed` : ""}</small></h3>
    <div class=${`heat shards ${one.shards > 200 ? "tiny" : "small"}`} role="img" aria-label=${`${done} of ${one.shards} shards written, ${failed} failed`}>
      ${Array.from({ length: shown }, (_, n) => html`<i key=${n} class=${state.get(n) ?? ""} title=${`shard ${n}: ${state.get(n) ?? "to do"}`}></i>`)}
    </div>`;
}
