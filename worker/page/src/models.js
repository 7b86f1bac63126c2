// ModelDeployments: batch sizes over time with reasons, queues and latency, placements with receipts.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { Receipt, TimeChart } from "./charts.js";
import { duration, milliseconds, number, plural, words } from "./format.js";
import { Choices, Facts, Filter, Level, Nothing } from "./parts.js";
import { Changes } from "./overview.js";
import { byLevel, matching, queueOf, rateOf, series } from "./state.js";

export function Models({ state, theme, chosen, choose }) {
  const [text, setText] = useState("");
  const all = Object.values(state.deployments).sort((a, b) => byLevel[a.level] - byLevel[b.level] || a.id.localeCompare(b.id));
  if (!all.length) return html`<${Nothing} title="No ModelDeployments"><p>What is deployed shows here: its models, their batch sizes and why, its pods and where they are.</p><//>`;
  const shown = matching(all, text, (each) => [each.id, each.reason, ...(each.models ?? []).map((model) => model.name), ...(each.pods ?? []).map((pod) => pod.node)]);
  const one = state.deployments[chosen] ?? shown[0];
  return html`<div class="two">
    <div>
      <div class="tools"><${Filter} value=${text} onInput=${setText} placeholder="name, model, node, reason" count=${plural(shown.length, "deployment")} /></div>
      <${Choices} items=${shown} chosen=${one?.id} choose=${choose} label="ModelDeployments">
        ${(each) => html`<${Level} level=${each.level} />
          <span class="grow"><b>${each.name}</b> <small>${each.namespace}</small><br /><small>${words(each.reason)}</small></span>
          <span class="figure">${each.ready ?? 0}/${each.wanted ?? 0}<br /><small>${number(rateOf(each))} rows/s</small></span>`}
      <//>
    </div>
    ${one ? html`<${Deployment} one=${one} state=${state} theme=${theme} key=${one.id} />` : null}
  </div>`;
}

function Deployment({ one, state, theme }) {
  const [most, setMost] = useState(12);
  const changes = (state.head.changes ?? []).filter((each) => each.about === one.id);
  const pods = one.pods ?? [];
  return html`<article class="detail" tabindex="0" aria-label=${one.id}>
    <h2><${Level} level=${one.level} /> ${one.name} <small>${one.namespace}</small></h2>
    <p class="said">${one.reason}: ${one.message}</p>
    <${Facts} facts=${[
      ["replicas", `${one.ready ?? 0} of ${one.wanted ?? 0} ready`],
      ["rows/s", number(rateOf(one))],
      ["rows that wait", number(queueOf(one))],
      ["address", one.url],
    ]} />
    ${(one.models ?? []).map((model) => html`<${Model} key=${model.name} model=${model} deployment=${one} state=${state} theme=${theme} changes=${changes} />`)}
    <h3>Where its pods are, and why</h3>
    ${pods.length
      ? pods.slice(0, most).map(
          (pod) => html`<details key=${pod.name} open=${pods.length <= 3}>
            <summary><${Level} level=${pod.ready ? "ok" : pod.node ? "busy" : "warning"} /> <b>${pod.name}</b> <small>${pod.node ? `${pod.node} · ${pod.processor}` : "no place yet"}${pod.receipt?.load !== undefined ? ` · load ${number(pod.receipt.load, 2)}` : ""}</small></summary>
            <${Receipt} pod=${pod} />
            ${pod.message && pod.receipt ? html`<p class="said">${pod.message}</p>` : null}
            ${pod.receipt?.predicted !== undefined ? html`<p class="quiet">forecast ${number(pod.receipt.predicted)} rows/s, measured ${number(pod.receipt.observed)}</p>` : null}
          </details>`,
        )
      : html`<p class="quiet">no pods</p>`}
    ${pods.length > most ? html`<button type="button" class="more" onClick=${() => setMost(most + 100)}>${pods.length - most} more</button>` : null}
    ${changes.length ? html`<h3>What happened</h3><${Changes} changes=${changes.slice(0, 20)} time=${state.time} />` : null}
  </article>`;
}

// Which change of size is of this model: the operator's words begin with its name.
function ofModel(changes, model) {
  return changes.filter((each) => each.text.startsWith(`${model.name} in `) || each.text.startsWith(`${model.name}: `));
}

function Model({ model, deployment, state, theme, changes }) {
  const past = series(state.history, `model:${deployment.id}/${model.name}`);
  const own = ofModel(changes, model);
  const late = model.target !== undefined && model.p95 !== undefined && model.p95 > model.target;
  return html`<section class="model">
    <h3>${model.name} ${model.mode === "Whole" ? html`<small>each request is a run of its own</small>` : null}</h3>
    ${model.message ? html`<p class="said">${model.message}</p>` : null}
    <div class="three">
      <p class="big"><b>${model.batchSize ?? "–"}</b><span>rows a batch${model.batchMin !== model.batchMax ? ` (${model.batchMin} to ${model.batchMax})` : ""}</span></p>
      <p class=${`big ${late ? "late" : ""}`}><b>${milliseconds(model.p95)}</b><span>p95${model.target !== undefined ? `, wanted ${milliseconds(model.target)}${model.p95 === undefined ? "" : late ? " ✕" : " ✓"}` : ""}</span></p>
      <p class="big"><b>${number(model.queue)}</b><span>rows wait</span></p>
      <p class="big"><b>${number(model.throughput)}</b><span>rows/s${model.possible ? ` of ${number(model.possible)} possible` : ""}</span></p>
    </div>
    <p class="why">${why(model, state.time)}</p>
    ${past && past.times.length > 1
      ? html`<div class="charts">
          <figure><figcaption>Batch size${own.length ? ", dots: why it changed" : ""}</figcaption>
            <${TimeChart} theme=${theme} label=${`batch size of ${model.name}`} whole times=${past.times} lines=${[{ label: "rows", values: past.batch, color: "--c1", step: true, fill: true }]} marks=${own.map((each) => each.at)} /></figure>
          <figure><figcaption>p95${model.target !== undefined ? " and its target (dashed)" : ""}</figcaption>
            <${TimeChart} theme=${theme} label=${`latency of ${model.name}`} unit=" ms" times=${past.times}
              lines=${[{ label: "p95", values: past.p95, color: "--c3", fill: true }, ...(model.target !== undefined ? [{ label: "target", values: past.times.map(() => model.target), color: "--muted", dash: [6, 4] }] : [])]} /></figure>
          <figure><figcaption>Rows that wait</figcaption>
            <${TimeChart} theme=${theme} label=${`queue of ${model.name}`} whole times=${past.times} lines=${[{ label: "rows", values: past.queue, color: "--c4", fill: true }]} /></figure>
        </div>`
      : null}
    ${own.length ? html`<details><summary>${plural(own.length, "change")} of batch size</summary><${Changes} changes=${own.slice(0, 12)} time=${state.time} /></details>` : null}
  </section>`;
}

const HELD = {
  TargetMet: "the targets are met",
  AtMaximum: "it is at its maximum",
  AtMinimum: "it is at its minimum",
  NoFasterBeyond: "larger batches are no faster",
  Overloaded: "more is offered than any size can serve",
  TrendDisagrees: "the trend disagrees",
  TargetMissedOnce: "the target was missed in one window only",
};
const BOUND = {
  Size: "the tuned size",
  Knee: "the knee, from which more rows are no faster",
  Reach: "what has been measured so far",
  InTime: "the first row of a larger batch would be late",
  FairShare: "other models' targets",
  Memory: "the device's memory",
};

function why(model, now) {
  const said = [];
  if (model.searching) said.push("it looks for a better size");
  else if (model.heldBecause) said.push(`held: ${HELD[model.heldBecause] ?? words(model.heldBecause)}${model.heldBy ? ` (${words(model.heldBy)})` : ""}`);
  if (model.boundBy) said.push(`batches are bounded by ${BOUND[model.boundBy] ?? words(model.boundBy)}${model.limit ? `, ${model.limit} rows` : ""}`);
  if (model.fixedMs !== undefined) said.push(`a batch takes ${number(model.fixedMs, 1)} ms + ${number(model.perRowMs, 2)} ms a row${model.knee ? `, knee at ${model.knee}` : ""}`);
  if (model.changedAt) said.push(`last change ${duration(now - model.changedAt)} ago: ${words(model.changedBecause)}${model.changedBy ? ` (${words(model.changedBy)})` : ""}`);
  return said.join(" · ");
}
