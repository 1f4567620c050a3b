// Small pieces that all views are made of.
import type { ComponentChildren, RefObject, TargetedKeyboardEvent, TargetedMouseEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { airflowUrl, leave, loginUrl, type Place, type Problem, Refusal } from "./api";
import { count } from "./format";

export const FATES = ["ok", "unparsed", "failed", "skipped"] as const;
export type Fate = (typeof FATES)[number];
export const MEANING: Record<Fate, string> = {
  ok: "answered and read",
  unparsed: "the answer could not be read",
  failed: "there is no answer",
  skipped: "not ok upstream, so not asked",
};

export function Badge({ state }: { state: string | null }) {
  const name = state ?? "not started";
  return (
    <span class="badge" data-state={state ?? "none"}>
      <span class="dot" aria-hidden="true" />
      {name.replaceAll("_", " ")}
    </span>
  );
}

interface Told {
  label: string;
  value: ComponentChildren;
  hint?: string | undefined;
  tone?: string | undefined;
  title?: string | undefined;
}

export function Tile({ label, value, hint, tone, title }: Told) {
  return (
    <div class="tile" data-tone={tone} title={title}>
      <dt>{label}</dt>
      <dd>{value}</dd>
      {hint && <dd class="hint">{hint}</dd>}
    </div>
  );
}

export function Notice({ problem, tone = "info", children }: { problem: Problem; tone?: "info" | "error" | "warning"; children?: ComponentChildren }) {
  return (
    <section class="notice" data-tone={tone} data-kind={problem.kind} role={tone === "error" ? "alert" : undefined}>
      <h2>{problem.title}</h2>
      <p>{problem.advice}</p>
      {problem.kind === "login" && (
        <p>
          <a class="button primary" href={loginUrl()}>
            Log in
          </a>
        </p>
      )}
      {children}
    </section>
  );
}

export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  const problem: Problem =
    error instanceof Refusal
      ? error.problem
      : { kind: "bug", title: "The page met an error of its own.", advice: "Reload it. If it stays so, please report it." };
  const kind = ["forbidden", "login", "nothing"].includes(problem.kind) ? "warning" : "error";
  return (
    <Notice problem={problem} tone={kind}>
      {retry && (
        <p>
          <button type="button" class="button" onClick={retry}>
            Try again
          </button>
        </p>
      )}
    </Notice>
  );
}

export function Waiting({ what }: { what: string }) {
  return (
    <p class="waiting" role="status">
      <span class="spinner" aria-hidden="true" /> {what}
    </p>
  );
}

/** A link into Airflow's own pages, also from within its frame. */
export function AirflowLink({ place, children }: { place: Partial<Place>; children: ComponentChildren }) {
  const to = airflowUrl(place);
  return (
    <a href={to} onClick={(event: TargetedMouseEvent<HTMLAnchorElement>) => leave(event, to)}>
      {children}
    </a>
  );
}

export function FateBar({ counts, total }: { counts: Record<Fate, number>; total: number }) {
  const done = FATES.reduce((sum, fate) => sum + counts[fate], 0);
  const told = FATES.filter((fate) => counts[fate]).map((fate) => `${count(counts[fate])} ${fate}`);
  return (
    <div
      class="fatebar"
      role="progressbar"
      aria-label="Rows"
      aria-valuemin={0}
      aria-valuemax={total || 1}
      aria-valuenow={done}
      aria-valuetext={`${count(done)} of ${count(total)} rows: ${told.join(", ") || "none yet"}`}
    >
      {FATES.map((fate) => (
        <span key={fate} data-fate={fate} style={{ width: `${total ? (100 * counts[fate]) / total : 0}%` }} />
      ))}
    </div>
  );
}

export type Loaded<T> = { value: T | undefined; error: unknown; again: () => void };

/** Load something, once for each key; what is not wanted any more is not waited for. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string; value?: T; error?: unknown }>({ key: "" });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    load(stop.signal).then(
      (value) => !stop.signal.aborted && setState({ key, value }),
      (error: unknown) => !stop.signal.aborted && setState({ key, error }),
    );
    return () => stop.abort();
  }, [key, turn]);
  const isMine = state.key === key;
  return { value: isMine ? state.value : undefined, error: isMine ? state.error : undefined, again: () => setTurn(turn + 1) };
}

/** Call something again and again while it is wanted and the page is looked at. */
export function usePoll(ask: () => Promise<void>, every: number | null): void {
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    if (every === null) return;
    let timer = 0;
    let ended = false;
    const turn = async () => {
      if (!document.hidden) await latest.current();
      if (!ended) timer = window.setTimeout(turn, every);
    };
    timer = window.setTimeout(turn, every);
    return () => {
      ended = true;
      window.clearTimeout(timer);
    };
  }, [every]);
}

export function useWidth(): [RefObject<HTMLDivElement | null>, number] {
  const ref = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (!ref.current) return;
    const watch = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

export function useLater<T>(value: T, delay: number): T {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const timer = window.setTimeout(() => setLate(value), delay);
    return () => window.clearTimeout(timer);
  }, [value, delay]);
  return late;
}

export interface Tab {
  id: string;
  name: string;
  hint?: string | undefined;
}

/** Tabs as screen readers and keyboards know them: arrows move between them. */
export function Tabs({ tabs, chosen, choose }: { tabs: Tab[]; chosen: string; choose: (id: string) => void }) {
  const move = (event: TargetedKeyboardEvent<HTMLDivElement>) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex((tab) => tab.id === chosen);
    const next = tabs[(at + step + tabs.length) % tabs.length];
    if (!next) return;
    choose(next.id);
    document.getElementById(`tab-${next.id}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="Views of the dataset" onKeyDown={move}>
      {tabs.map((tab) => (
        <button
          key={tab.id}
          id={`tab-${tab.id}`}
          type="button"
          role="tab"
          aria-selected={tab.id === chosen}
          aria-controls="panel"
          tabIndex={tab.id === chosen ? 0 : -1}
          onClick={() => choose(tab.id)}
        >
          {tab.name}
          {tab.hint && <span class="pill">{tab.hint}</span>}
        </button>
      ))}
    </div>
  );
}
