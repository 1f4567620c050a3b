// The routes of the plugin. They are relative to the page's own address, so a path before Airflow's changes nothing.

export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };
export type Cells = Record<string, string | number | boolean | null>;

export interface Place {
  dag_id: string;
  run_id: string;
  task_id: string;
  map_index: number;
}
export interface Column {
  name: string;
  type: string;
  kind: "number" | "text" | "chat" | "vector" | "list" | "time" | "flag" | "other";
  role: "input" | "output" | "ours";
}
export interface Reason {
  kind: string;
  count: number;
  rows: number[];
}
export interface Progress {
  phase?: string;
  done?: number;
  total?: number;
  elapsed_s?: number;
  rows_per_s?: number;
  eta_s?: number | null;
  ok?: number;
  failed?: number;
  unparsed?: number;
  skipped?: number;
  lost?: number;
  replayed?: number;
  calls?: number;
  in_flight?: number;
  limit?: number;
  input_tokens?: number;
  output_tokens?: number;
  cost_usd?: number | null;
  /** By all attempts together: what budgets are about. */
  paid?: { input_tokens?: number | null; output_tokens?: number | null; cost_usd?: number | null };
  max_cost_usd?: number | null;
  max_total_tokens?: number | null;
  reasons?: Reason[];
  retries?: Record<string, number>;
  samples?: number[][];
  error?: string;
  destination?: string;
  task?: string;
  model?: string;
  at?: string;
}
export interface Dataset {
  edition: number;
  claim: number;
  round: number;
  fingerprint: string;
  fencing: string;
  created_at: string;
  rows: number;
  ok: number;
  unparsed: number;
  failed: number;
  skipped: number;
  lost: Record<string, number>;
  input_tokens: number | null;
  output_tokens: number | null;
  cost_usd: number | null;
  model: string | null;
  numbers: Record<string, { mean: number; min: number; max: number }>;
  reasons: Record<string, number>;
  task: Record<string, Json>;
  limits: { after_s?: number; old?: number; new?: number; reason?: string }[];
  versions: Record<string, string>;
  uri: string;
  bytes: number;
  parts: number;
  members: number;
  published_by: string | null;
  inputs: Record<string, Json>[];
  more_inputs: number;
  columns: Column[];
  raw: { input: boolean; output: boolean };
}
export interface Problem {
  kind: string;
  title: string;
  advice: string;
}
export interface Neighbour {
  task_id: string;
  linked: boolean;
  mapped: boolean;
}
export interface Known {
  state: string | null;
  try_number: number;
  max_tries: number;
  start_date: string | null;
  end_date: string | null;
  duration: number | null;
  operator_name: string | null;
  task_display_name: string;
  rendered_map_index: string | null;
  hostname: string | null;
}
export interface Instance {
  place: Place;
  instance: Known;
  progress: Progress | null;
  dataset: Dataset | null;
  problem: Problem | null;
  neighbours: { upstream: Neighbour[]; downstream: Neighbour[] };
}
export interface Rows {
  rows: { position: number; cells: Cells }[];
  offset: number;
  total: number;
  complete: boolean;
}
export interface Figures {
  count: number;
  mean?: number;
  min?: number;
  max?: number;
  median?: number;
  p90?: number;
}
export interface Bars {
  edges: number[];
  whole: boolean;
  open: boolean;
}
export interface Series extends Bars {
  name: string;
  what: "value" | "length" | "request";
  bars: number[];
  figures: Figures;
  parts: { by: "position" | "model"; name: string; bars: number[]; figures: Figures }[];
}
export interface Difference extends Bars {
  name: string;
  what: Series["what"];
  bars: [number[], number[]];
  figures: [Figures, Figures];
}
export interface Pair {
  one: Cells | null;
  other: Cells | null;
  differ: boolean | null;
}
export interface Comparison {
  columns: string[];
  inputs: string[];
  pairs: Pair[];
  offset: number;
  total: number;
  both: number;
  different: number | null;
  only_one: number;
  only_other: number;
}
export interface Run {
  dag_run_id: string;
  state: string;
  run_after: string | null;
}
export interface Attempts {
  attempts: {
    claim: number;
    try_number: number;
    host: string;
    created_at: string;
    round: number;
    edition: number | null;
    published_at: string | null;
    rows: Record<string, number> | null;
    answers: number;
    refused: number;
    input_tokens: number;
    output_tokens: number;
    cost_usd: number | null;
  }[];
  others: number;
  complete: boolean;
  tries: { try_number: number; state: string | null; start_date: string | null; duration: number | null; hostname: string | null }[];
}
export interface Line {
  task_id: string;
  map_index: number;
  rendered_map_index: string | null;
  state: string | null;
  operator_name: string | null;
  duration: number | null;
  summary: { rows: number; ok: number; unparsed: number; failed: number; skipped: number; edition: number; model: string | null; cost_usd: number | null } | null;
  progress: Progress | null;
}

/** Why something cannot be shown, in words for the user. */
export class Refusal extends Error {
  constructor(readonly problem: Problem) {
    super(problem.title);
  }
}

const address = new URLSearchParams(location.search);
/** Path of Airflow itself, without a slash at its end. */
export const base = location.pathname.replace(/\/distil\/page$/, "");
export const dagId = address.get("dag_id") ?? "";
export const runId = address.get("run_id") ?? "";
export const taskId = address.get("task_id") ?? "";
export const mapIndex = Number.parseInt(address.get("map_index") ?? "-1", 10);

export type Parameters = Record<string, string | number | boolean | string[] | undefined | null>;

export function url(route: string, parameters: Parameters = {}): string {
  const query = new URLSearchParams({ dag_id: dagId, run_id: runId });
  if (taskId) {
    query.set("task_id", taskId);
    query.set("map_index", String(Number.isNaN(mapIndex) ? -1 : mapIndex));
  }
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") query.append(name, String(each));
    }
  }
  return `${route}?${query}`;
}

export async function get<T>(route: string, parameters: Parameters = {}, signal?: AbortSignal): Promise<T> {
  let reply: Response;
  try {
    reply = await fetch(url(route, parameters), { signal: signal ?? null, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal({
      kind: "offline",
      title: "Airflow's API server does not answer.",
      advice: "This page tries again by itself.",
    });
  }
  if (reply.ok) return (await reply.json()) as T;
  throw new Refusal(await problemOf(reply));
}

async function problemOf(reply: Response): Promise<Problem> {
  if (reply.status === 401) {
    return { kind: "login", title: "You are not logged in.", advice: "Log in to Airflow, then come back to this page." };
  }
  if (reply.status === 403) {
    return {
      kind: "forbidden",
      title: "You may not see this.",
      advice: "The page needs the right to read task instances and XComs of this DAG. Ask an administrator of Airflow for it.",
    };
  }
  try {
    const body = (await reply.json()) as { problem?: Problem };
    if (body.problem) return body.problem;
  } catch {
    // not ours
  }
  return { kind: "error", title: `Airflow answered ${reply.status}.`, advice: "Reload the page; if it stays so, see the API server's log." };
}

export function loginUrl(): string {
  return `${base}/api/v2/auth/login?next=${encodeURIComponent(location.href)}`;
}

export function pageUrl(place: Partial<Place>): string {
  const query = new URLSearchParams({ dag_id: place.dag_id ?? dagId, run_id: place.run_id ?? runId });
  if (place.task_id) {
    query.set("task_id", place.task_id);
    query.set("map_index", String(place.map_index ?? -1));
  }
  return `page?${query}`;
}

export function airflowUrl(place: Partial<Place>): string {
  const parts = [`dags/${encodeURIComponent(place.dag_id ?? dagId)}`];
  if (place.run_id) parts.push(`runs/${encodeURIComponent(place.run_id)}`);
  if (place.task_id) parts.push(`tasks/${encodeURIComponent(place.task_id)}`);
  if (place.task_id && (place.map_index ?? -1) >= 0) parts.push(`mapped/${place.map_index}`);
  return `${base}/${parts.join("/")}`;
}

/** Leave the frame that Airflow shows this page in: its sandbox lets no link do that, but the window around it can go there. */
export function leave(event: MouseEvent, to: string): void {
  if (window.parent === window || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const link = window.parent.document.createElement("a");
  link.href = to;
  link.click();
}
