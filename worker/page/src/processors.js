// Every processor: how busy, how fast, what was measured, and what runs there.
import { html } from "htm/preact";
import { useMemo, useState } from "preact/hooks";
import { LoadTable } from "./charts.js";
import { duration, number, percent, plural, speed, words } from "./format.js";
import { Bar, Choices, Facts, Filter, Level, Nothing } from "./parts.js";
import { byLevel, matching } from "./state.js";

const ORDERS = {
  node: ["by name", (a, b) => a.node.localeCompare(b.node, "en", { numeric: true }) || a.kind.localeCompare(b.kind)],
  busy: ["busiest first", (a, b) => (b.utilization ?? -1) - (a.utilization ?? -1)],
  speed: ["fastest first", (a, b) => (b.capacity ?? -1) - (a.capacity ?? -1)],
  level: ["troubled first", (a, b) => byLevel[a.level] - byLevel[b.level]],
};

export function Processors({ state, chosen, choose, go }) {
  const [text, setText] = useState("");
  const [order, setOrder] = useState("node");
  const all = useMemo(() => Object.values(state.processors).sort(ORDERS[order][1]), [state.processors, order]);
  const shown = matching(all, text, (each) => [each.node, each.kind, each.product ?? "", each.reason ?? "", each.level]);
  if (!all.length) return html`<${Nothing} title="No processors"><p>${state.head.source === "cluster" ? "The cluster has no nodes that you may list." : "This process has not told of its devices yet."}</p><//>`;
  const one = state.processors[chosen] ?? shown[0];
  return html`<div class="two">
    <div>
      <div class="tools">
        <${Filter} value=${text} onInput=${setText} placeholder="node, kind, product, reason" count=${plural(shown.length, "processor")} />
        <label>order <select value=${order} onChange=${(e) => setOrder(e.target.value)}>${Object.entries(ORDERS).map(([key, [said]]) => html`<option key=${key} value=${key}>${said}</option>`)}</select></label>
      </div>
      <${Heat} processors=${shown} chosen=${one?.id} choose=${choose} />
      <${Choices} items=${shown} chosen=${one?.id} choose=${choose} label="Processors">
        ${(each) => html`<${Level} level=${each.level} />
          <span class="grow"><b>${each.node}</b> <small>${each.kind}${each.product ? ` · ${each.product}` : ""}</small></span>
          <span class="meter"><${Bar} value=${each.utilization} label=${`${percent(each.utilization)} busy`} kind="load" /><small>${percent(each.utilization)}</small></span>
          <span class="figure">${each.capacity === undefined ? words(each.reason) : `${speed(each.capacity)} img/s`}</span>`}
      <//>
    </div>
    ${one ? html`<${Processor} one=${one} state=${state} go=${go} />` : null}
  </div>`;
}

// One square for each processor: darker is busier. The list beneath says the same in words.
function Heat({ processors, chosen, choose }) {
  if (processors.length < 2) return null;
  const size = processors.length > 400 ? "tiny" : processors.length > 60 ? "small" : "";
  return html`<div class="heat-and-key">
    <div class=${`heat ${size}`} aria-hidden="true">
      ${processors.map(
        (each) => html`<i key=${each.id} class=${`${each.level} ${each.id === chosen ? "chosen" : ""} ${each.utilization === undefined ? "unknown" : ""}`}
          style=${{ "--busy": `${Math.round((each.utilization ?? 0) * 100)}%` }}
          title=${`${each.id}: ${percent(each.utilization)} busy, ${words(each.reason)}`} onClick=${() => choose(each.id)}></i>`,
      )}
    </div>
    <p class="legend" aria-hidden="true">0 % <span class="ramp"></span> 100 % busy <i class="unknown"></i> no sample <i class="warning"></i> look <i class="error"></i> act</p>
  </div>`;
}

function Processor({ one, state, go }) {
  const here = Object.values(state.deployments).flatMap((deployment) =>
    (deployment.pods ?? []).filter((pod) => pod.node === one.node && pod.processor === one.kind).map((pod) => ({ ...pod, deployment })),
  );
  return html`<article class="detail" tabindex="0" aria-label=${one.id}>
    <h2><${Level} level=${one.level} /> ${one.node} <small>${one.kind}</small></h2>
    ${one.message ? html`<p class="said">${one.message}</p>` : null}
    <${Facts} facts=${[
      ["product", one.product],
      ["busy", one.utilization === undefined ? undefined : percent(one.utilization)],
      ["memory in use", one.memory === undefined ? undefined : percent(one.memory)],
      ["sampled", one.sampledAt ? `${duration(state.time - one.sampledAt)} ago` : undefined],
      ["one device", one.capacity === undefined ? undefined : `${speed(one.capacity)} images/s`],
      ["all devices", one.nodeCapacity !== undefined && one.nodeCapacity !== one.capacity ? `${speed(one.nodeCapacity)} images/s` : undefined],
      ["slots", one.slots || undefined],
      ["measurement", words(one.reason)],
      ["measured", one.benchmarkedAt ? `${duration(state.time - one.benchmarkedAt)} ago` : undefined],
      ["taken from", one.estimatedFrom],
    ]} />
    ${one.loadTable?.length ? html`<${LoadTable} rows=${one.loadTable} />` : html`<p class="quiet">no load table: ${words(one.reason) || "not measured"}</p>`}
    <h3>${here.length || !one.pods ? plural(here.length, "pod") : plural(one.pods, "pod")} of models here</h3>
    <ul class="plain">${here.map(
      (pod) => html`<li key=${pod.name}><button type="button" class="link" onClick=${() => go("models", pod.deployment.id)}>${pod.deployment.id}</button> <small>${pod.name}${pod.receipt?.load !== undefined ? `, load ${number(pod.receipt.load, 2)} when placed` : ""}</small></li>`,
    )}</ul>
  </article>`;
}
