// Small parts that every view is made of.
import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";

export const SIGN = { error: "✕", warning: "▲", busy: "◐", ok: "✓", idle: "–" };
const SAID = { error: "needs action", warning: "needs a look", busy: "under way", ok: "well", idle: "idle" };

// Never by colour alone.
export function Level({ level }) {
  return html`<span class="level ${level}" role="img" aria-label=${SAID[level]} title=${SAID[level]}>${SIGN[level]}</span>`;
}

export function Bar({ value, label, kind = "" }) {
  const share = Math.max(0, Math.min(1, value ?? 0));
  return html`<span class="bar ${kind}" role="img" aria-label=${label}><i style=${{ width: `${share * 100}%` }}></i></span>`;
}

export function Tile({ title, value, unit, note, level }) {
  return html`<div class="tile ${level ?? ""}">
    <h3>${title}</h3>
    <p><b>${value}</b>${unit ? html` <span>${unit}</span>` : null}</p>
    <small>${note}</small>
  </div>`;
}

export function Command({ text }) {
  const [said, say] = useState("copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("copied");
    } catch {
      say("select it");
    }
    setTimeout(() => say("copy"), 1500);
  };
  return html`<span class="command"><code>${text}</code><button type="button" onClick=${copy}>${said}</button></span>`;
}

export function Filter({ value, onInput, placeholder, count }) {
  const field = useRef(null);
  useEffect(() => {
    const focus = (event) => {
      if (event.key === "/" && !/input|textarea|select/i.test(document.activeElement?.tagName ?? "")) {
        event.preventDefault();
        field.current?.focus();
      }
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  return html`<label class="filter">
    <span class="hidden">Filter</span>
    <input ref=${field} type="search" value=${value} placeholder=${`${placeholder}  ( / )`} onInput=${(e) => onInput(e.target.value)} />
    <output>${count}</output>
  </label>`;
}

export const PAGE = 100;

// A list of buttons: arrow keys move, Enter and Space choose; long lists are cut, and say by how much.
export function Choices({ items, chosen, choose, label, children }) {
  const [most, setMost] = useState(PAGE);
  const list = useRef(null);
  const move = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...list.current.querySelectorAll("button.choice")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
      next.click();
    }
  };
  const shown = items.slice(0, most);
  return html`<div class="choices" ref=${list} onKeyDown=${move} role="group" aria-label=${label}>
    ${shown.map(
      (item) => html`<button type="button" class="choice" key=${item.id} aria-pressed=${item.id === chosen} onClick=${() => choose(item.id)}>
        ${children(item)}
      </button>`,
    )}
    ${items.length > most
      ? html`<button type="button" class="more" onClick=${() => setMost(most + 4 * PAGE)}>show more: ${items.length - most} are left out</button>`
      : null}
    ${items.length === 0 ? html`<p class="nothing">nothing matches</p>` : null}
  </div>`;
}

export function Nothing({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

export function Facts({ facts }) {
  const known = facts.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return html`<dl class="facts">${known.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
