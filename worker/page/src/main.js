// The page: it listens to the server's events, keeps their state, and draws one of five views.
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { clock, duration } from "./format.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Changes, Overview } from "./overview.js";
import { Level, Nothing } from "./parts.js";
import { Processors } from "./processors.js";
import { empty, sampled, updated, withHistory } from "./state.js";

const VIEWS = { overview: "Overview", processors: "Processors", models: "Models", jobs: "Jobs", events: "Events" };
const QUIET_S = 40;

// The address was printed with the token behind its #, which no browser sends to anybody; a reload still has it.
function tokenFrom(address) {
  const found = /^#([\w-]{20,})$/.exec(address.hash);
  try {
    if (found) {
      sessionStorage.setItem("token", found[1]);
      history.replaceState(null, "", "#overview");
    }
    return found?.[1] ?? sessionStorage.getItem("token") ?? "";
  } catch {
    return found?.[1] ?? "";
  }
}

function viewFrom(hash) {
  const [view, ...rest] = decoded(hash.replace(/^#/, "")).split("=");
  return { view: VIEWS[view] ? view : "overview", chosen: rest.join("=") || null };
}

// A hand may have written the address.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function useTheme() {
  const stored = () => {
    try {
      return localStorage.getItem("theme") ?? "auto";
    } catch {
      return "auto";
    }
  };
  const [theme, setTheme] = useState(stored);
  const [dark, setDark] = useState(matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => setDark(media.matches);
    media.addEventListener("change", follow);
    return () => media.removeEventListener("change", follow);
  }, []);
  const now = theme === "auto" ? (dark ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = now;
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const turn = () => {
    try {
      localStorage.setItem("theme", next);
    } catch {
      // a browser that keeps nothing shows the theme until the page is closed
    }
    setTheme(next);
  };
  return [now, theme, turn];
}

function App({ initial, follow }) {
  const [state, setState] = useState(initial);
  const [link, setLink] = useState(follow ? "connecting" : "snapshot");
  const [at, setAt] = useState(() => viewFrom(location.hash));
  const [theme, asked, turn] = useTheme();
  useEffect(() => {
    const moved = () => setAt(viewFrom(location.hash));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => (follow ? follow(setState, setLink) : undefined), []);
  const go = (view, chosen) => {
    location.hash = chosen ? `${view}=${encodeURIComponent(chosen)}` : view;
    scrollTo(0, 0);
  };
  const choose = (id) => history.replaceState(null, "", `#${at.view}=${encodeURIComponent(id)}`) ?? setAt({ ...at, chosen: id });
  useEffect(() => {
    document.title = `${state.head ? `${state.head.headline} – ` : ""}Batchwright`;
  }, [state.head?.headline]);
  const counts = { processors: Object.keys(state.processors).length, models: Object.keys(state.deployments).length, jobs: Object.keys(state.jobs).length };
  const keys = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const names = Object.keys(VIEWS);
    const next = names[(names.indexOf(at.view) + step + names.length) % names.length];
    go(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return html`
    <a class="skip" href="#view" onClick=${(e) => (e.preventDefault(), document.getElementById("view").focus())}>to the content</a>
    <header>
      <h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M3 4h8v4H3zM3 10h13v4H3zM3 16h18v4H3z" /></svg>Batchwright</h1>
      <p class="title">${state.head ? html`${state.head.source === "cluster" ? "cluster" : "this machine"} <b>${state.head.title}</b>` : ""}</p>
      <p class="verdict" role="status">${state.head ? html`<${Level} level=${state.head.level} /> ${state.head.headline}` : null}</p>
      <p class=${`link ${link}`} title=${state.time ? `as of ${clock(state.time)}` : ""}>${linkSaid(link, state.time)}</p>
      <button type="button" class="theme" onClick=${turn} aria-label=${`colours: ${asked}`} title=${`colours: ${asked}`}>${{ auto: "◑", light: "☀", dark: "☾" }[asked]}</button>
    </header>
    <nav role="tablist" aria-label="Views" onKeyDown=${keys}>
      ${Object.entries(VIEWS).map(
        ([view, title]) => html`<button type="button" role="tab" id=${`tab-${view}`} key=${view} aria-selected=${view === at.view} aria-controls="view" tabindex=${view === at.view ? 0 : -1} onClick=${() => go(view)}>
          ${title}${counts[view] ? html` <span>${counts[view]}</span>` : null}
        </button>`,
      )}
    </nav>
    ${(state.head?.notes ?? []).map((note) => html`<p class="note" key=${note}>${note}</p>`)}
    <main id="view" role="tabpanel" aria-labelledby=${`tab-${at.view}`} tabindex="-1">${state.head ? view(at, { state, theme, go, choose, chosen: at.chosen }) : waiting(link)}</main>`;
}

function view(at, props) {
  if (at.view === "processors") return html`<${Processors} ...${props} />`;
  if (at.view === "models") return html`<${Models} ...${props} />`;
  if (at.view === "jobs") return html`<${Jobs} ...${props} />`;
  if (at.view === "events") {
    const changes = props.state.head.changes ?? [];
    return changes.length
      ? html`<section><h2>Events, newest first</h2><${Changes} changes=${changes} time=${props.state.time} /></section>`
      : html`<${Nothing} title="No events"><p>Changes of batch size and of state show here, with their reasons.</p><//>`;
  }
  return html`<${Overview} ...${props} />`;
}

function waiting(link) {
  if (link === "refused")
    return html`<${Nothing} title="This address has no token, or an old one"><p>Open the address that the command printed last, with all that stands behind its #.</p><//>`;
  return html`<${Nothing} title=${link === "lost" ? "The server does not answer" : "Looking at the cluster"}><p>${link === "lost" ? "Is the command still running? The page goes on by itself when it answers." : "This takes a moment."}</p><//>`;
}

function linkSaid(link, time) {
  if (link === "snapshot") return `snapshot of ${new Date(time * 1000).toLocaleString("en-GB")}`;
  return { connecting: "connecting", live: "live", lost: `lost${time ? `, as of ${clock(time)}` : ""}`, refused: "refused: open the address that the command printed last", quiet: "quiet" }[link];
}

// Whether a server is there that does not know the token: the command was started anew. An EventSource does not tell.
async function refused(token) {
  const gone = new AbortController();
  try {
    return (await fetch(`/events?token=${encodeURIComponent(token)}`, { signal: gone.signal })).status === 403;
  } catch {
    return false;
  } finally {
    gone.abort();
  }
}

// The server's events, until the page is closed. The browser connects again by itself where it can.
function followed(token) {
  return (setState, setLink) => {
    let source;
    let heard = Date.now();
    let again;
    const connect = () => {
      source = new EventSource(`/events?token=${encodeURIComponent(token)}`);
      const on = (name, change) =>
        source.addEventListener(name, (event) => {
          heard = Date.now();
          setLink("live");
          const data = JSON.parse(event.data);
          setState((state) => change(state, data));
        });
      on("history", withHistory);
      on("update", updated);
      on("sample", sampled);
      source.onopen = () => {
        heard = Date.now();
        setLink("live");
      };
      source.onerror = async () => {
        setLink(token ? "lost" : "refused");
        if (source.readyState !== EventSource.CLOSED || !token) return;
        clearTimeout(again);
        if (await refused(token)) setLink("refused");
        else again = setTimeout(connect, 3000);
      };
    };
    connect();
    const watch = setInterval(() => {
      if (source.readyState === EventSource.OPEN && Date.now() - heard > QUIET_S * 1000) setLink("quiet");
    }, 5000);
    return () => {
      clearInterval(watch);
      clearTimeout(again);
      source.close();
    };
  };
}

const kept = document.getElementById("snapshot");
if (kept) {
  const told = JSON.parse(kept.textContent);
  render(html`<${App} initial=${withHistory(updated(empty(), told.update), told.history)} />`, document.body);
} else {
  render(html`<${App} initial=${empty()} follow=${followed(tokenFrom(location))} />`, document.body);
}
