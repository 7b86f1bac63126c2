// The first view: is all well, what to do, and what goes on.
import { html } from "htm/preact";
import { TimeChart } from "./charts.js";
import { clock, duration, number, percent, plural, speed } from "./format.js";
import { Bar, Command, Level, Nothing, Tile } from "./parts.js";
import { byLevel, doneOf, queueOf, rateOf, series, shareOf } from "./state.js";

const SHOWN = 8;

export function Overview({ state, theme, go }) {
  const { head, history } = state;
  const processors = Object.values(state.processors);
  const deployments = Object.values(state.deployments).sort((a, b) => byLevel[a.level] - byLevel[b.level]);
  const jobs = Object.values(state.jobs).sort((a, b) => byLevel[a.level] - byLevel[b.level]);
  const busy = processors.map((each) => each.utilization).filter((value) => value !== undefined);
  const mean = busy.length ? busy.reduce((a, b) => a + b, 0) / busy.length : undefined;
  const nodes = new Set(processors.map((each) => each.node)).size;
  const ready = deployments.reduce((count, each) => count + (each.ready ?? 0), 0);
  const wanted = deployments.reduce((count, each) => count + (each.wanted ?? 0), 0);
  const queues = deployments.map(queueOf).filter((value) => value !== undefined);
  const rates = deployments.map(rateOf).filter((value) => value !== undefined);
  const total = (values) => (values.length ? values.reduce((a, b) => a + b, 0) : undefined);
  const waiting = (head.waiting?.length ?? 0) + (head.waitingLeftOut ?? 0);
  const running = jobs.filter((job) => job.level === "busy").length;
  const system = series(history, "system");
  const cluster = head.source === "cluster";
  return html`<div class="stack-of">
    <section class="tiles" aria-label="Totals">
      <${Tile} title="Processors" value=${percent(mean)} unit=${busy.length ? "busy" : ""} note=${`${plural(processors.length, "processor")} on ${plural(nodes, "node")}`} />
      <${Tile} title="Replicas" value=${wanted ? `${ready}/${wanted}` : "–"} unit=${wanted ? "ready" : ""} level=${ready < wanted ? "warning" : ""} note=${cluster ? plural(deployments.length, "ModelDeployment") : plural(deployments.length, "deployment")} />
      <${Tile} title="Throughput" value=${number(total(rates))} unit="rows/s" note="over all models" />
      <${Tile} title="Queues" value=${number(total(queues))} unit="rows" note="wait for a batch" />
      <${Tile} title="Jobs" value=${number(running)} unit="under way" note=${`${plural(jobs.length, "job")} in all`} />
      ${cluster ? html`<${Tile} title="Waiting pods" value=${number(waiting)} level=${waiting ? "warning" : ""} note="have no place yet" />` : null}
    </section>
    <${Findings} head=${head} />
    ${system && system.times.length > 1
      ? html`<section class="charts" aria-label="The last hour">
          <figure><figcaption>Processors, mean utilization</figcaption>
            <${TimeChart} theme=${theme} label="mean utilization" unit=" %" max=${100} times=${system.times} lines=${[{ label: "busy", values: system.utilization.map((v) => (v === null ? null : v * 100)), color: "--c1", fill: true }]} /></figure>
          <figure><figcaption>Rows per second</figcaption>
            <${TimeChart} theme=${theme} label="rows per second" times=${system.times} lines=${[{ label: "rows/s", values: system.rate, color: "--c2", fill: true }]} /></figure>
          <figure><figcaption>Rows that wait</figcaption>
            <${TimeChart} theme=${theme} label="rows that wait" whole times=${system.times} lines=${[{ label: "rows", values: system.queue, color: "--c3", fill: true }]} /></figure>
        </section>`
      : null}
    ${deployments.length
      ? html`<section><h2>Models</h2>
          <table class="rows">
            <thead><tr><th></th><th>ModelDeployment</th><th>state</th><th class="number">ready</th><th class="number">batch</th><th class="number">p95</th><th class="number">rows/s</th><th class="number">waiting</th></tr></thead>
            <tbody>${deployments.slice(0, SHOWN).map((each) => html`<tr key=${each.id}>
              <td><${Level} level=${each.level} /></td>
              <td><button type="button" class="link" onClick=${() => go("models", each.id)}>${each.id}</button></td>
              <td>${each.reason}</td>
              <td class="number">${each.ready ?? 0}/${each.wanted ?? 0}</td>
              <td class="number">${(each.models ?? []).map((model) => model.batchSize ?? "–").slice(0, 4).join(" · ")}</td>
              <td class="number">${number(Math.max(...(each.models ?? []).map((model) => model.p95 ?? 0)) || undefined)} ms</td>
              <td class="number">${number(rateOf(each))}</td>
              <td class="number">${number(queueOf(each))}</td>
            </tr>`)}</tbody>
          </table>
          ${deployments.length > SHOWN ? html`<button type="button" class="link" onClick=${() => go("models")}>all ${deployments.length}</button>` : null}
        </section>`
      : null}
    ${jobs.length
      ? html`<section><h2>Jobs</h2>
          <table class="rows">
            <thead><tr><th></th><th>InferenceJob</th><th>state</th><th class="wide">progress</th><th class="number">items</th><th class="number">failed</th><th class="number">items/s</th><th class="number">left</th></tr></thead>
            <tbody>${jobs.slice(0, SHOWN).map((each) => {
              const done = doneOf(each);
              return html`<tr key=${each.id}>
                <td><${Level} level=${each.level} /></td>
                <td><button type="button" class="link" onClick=${() => go("jobs", each.id)}>${each.id}</button></td>
                <td>${each.reason}</td>
                <td class="wide"><${Bar} value=${shareOf(each)} label=${`${done} of ${each.total} items`} kind=${each.level} /></td>
                <td class="number">${number(done)}/${number(each.total)}</td>
                <td class="number">${number(each.failed ?? 0)}</td>
                <td class="number">${speed(each.rate)}</td>
                <td class="number">${duration(each.etaS)}</td>
              </tr>`;
            })}</tbody>
          </table>
          ${jobs.length > SHOWN ? html`<button type="button" class="link" onClick=${() => go("jobs")}>all ${jobs.length}</button>` : null}
        </section>`
      : null}
    ${!deployments.length && !jobs.length && cluster
      ? html`<${Nothing} title="Nothing is deployed yet">
          <p>The processors are measured, so the first models can come:</p>
          <p><${Command} text="kubectl apply -k manifests/samples" /></p>
          <p><${Command} text="kubectl batchwright plan -f deployment.yaml" /> says first where its pods would go.</p>
        <//>`
      : null}
    ${head.changes?.length
      ? html`<section><h2>Lately</h2><${Changes} changes=${head.changes.slice(0, 6)} time=${state.time} />
          ${head.changes.length > 6 ? html`<button type="button" class="link" onClick=${() => go("events")}>all ${head.changes.length}</button>` : null}</section>`
      : null}
  </div>`;
}

export function Findings({ head }) {
  const findings = head.findings ?? [];
  if (!findings.length) return null;
  return html`<section aria-label="What needs attention"><h2>What to do</h2>
    <ol class="findings">
      ${findings.map(
        (each) => html`<li class=${each.level} key=${`${each.kind}${each.namespace}${each.name}${each.reason}`}>
          <${Level} level=${each.level} />
          <div>
            <h3>${each.kind} <b>${each.namespace ? `${each.namespace}/` : ""}${each.name}</b> <span>${each.reason}</span></h3>
            <p>${each.text}</p>
            ${each.command ? html`<${Command} text=${each.command} />` : null}
          </div>
        </li>`,
      )}
    </ol>
    ${head.findingsLeftOut ? html`<p class="quiet">and ${head.findingsLeftOut} more: kubectl batchwright status -o wide</p>` : null}
  </section>`;
}

export function Changes({ changes, time }) {
  return html`<table class="rows events">
    <tbody>${changes.map(
      (each, n) => html`<tr key=${`${each.at}${each.about}${n}`} class=${each.warns ? "warns" : ""}>
        <td class="when" title=${clock(each.at)}>${duration(time - each.at)} ago</td>
        <td>${each.warns ? html`<${Level} level="warning" />` : null}</td>
        <td class="about">${each.about}</td>
        <td class="reason">${each.reason}${each.count > 1 ? ` ×${each.count}` : ""}</td>
        <td class="text">${each.text}</td>
      </tr>`,
    )}</tbody>
  </table>`;
}
