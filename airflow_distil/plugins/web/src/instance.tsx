// The page of one task instance.
import { useEffect, useState } from "preact/hooks";
import { airflowUrl, dagId, type Dataset, get, type Instance, mapIndex, pageUrl, type Progress, runId, taskId } from "./api";
import { AttemptsView } from "./attempts";
import { CompareView } from "./compare";
import { DetailsView } from "./details";
import { DistributionsView } from "./distributions";
import { compact, count, dollars, percent, seconds } from "./format";
import { Live } from "./live";
import { AirflowLink, Badge, Failure, FateBar, type Fate, Notice, type Tab, Tabs, Tile, useLoad, usePoll, Waiting } from "./parts";
import { RowsView } from "./rows";

// As often as a person looks twice; the task itself tells every ten seconds.
const LIVE_EVERY = 2000;
const ENDED = new Set(["success", "failed", "skipped", "upstream_failed", "removed"]);

function tabOfAddress(): string {
  return /tab=([a-z]+)/.exec(location.hash)?.[1] ?? "";
}

export function InstancePage() {
  const [known, setKnown] = useState<Instance | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [tab, setTab] = useState(tabOfAddress);
  const load = async () => {
    try {
      setKnown(await get<Instance>("instance"));
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => {
    document.title = `${taskId} – Dataset`;
    void load();
    const follow = () => setTab(tabOfAddress());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  const isFinal = known !== null && ENDED.has(known.instance.state ?? "");
  usePoll(load, isFinal && !error ? null : LIVE_EVERY);

  if (!known) return <main>{error ? <Failure error={error} retry={load} /> : <Waiting what="Asking Airflow …" />}</main>;
  const { dataset } = known;
  const tabs = tabsOf(known);
  const chosen = tabs.some((each) => each.id === tab) ? tab : (tabs[0]?.id ?? "");
  const choose = (id: string) => {
    setTab(id);
    history.replaceState(null, "", `#tab=${id}`);
  };
  return (
    <main>
      <Header known={known} isFinal={isFinal} />
      {error ? <Failure error={error} retry={load} /> : null}
      <State known={known} />
      <Tabs tabs={tabs} chosen={chosen} choose={choose} />
      <div id="panel" role="tabpanel" aria-labelledby={`tab-${chosen}`} tabIndex={-1}>
        {chosen === "rows" && dataset && <RowsView key={dataset.fingerprint + dataset.edition} dataset={dataset} />}
        {chosen === "run" && <Live known={known} />}
        {chosen === "charts" && dataset && <DistributionsView dataset={dataset} />}
        {chosen === "compare" && dataset && <CompareView dataset={dataset} />}
        {chosen === "attempts" && <AttemptsView known={known} />}
        {chosen === "details" && <DetailsView known={known} />}
      </div>
    </main>
  );
}

function tabsOf({ dataset, progress, problem }: Instance): Tab[] {
  const rows = dataset && dataset.rows > 0 ? [{ id: "rows", name: "Rows", hint: compact(dataset.rows) }] : [];
  const run = progress?.total ? [{ id: "run", name: "Run" }] : []; // before that it has not asked for anything
  const more = dataset && dataset.rows > 0 ? [{ id: "charts", name: "Distributions" }, { id: "compare", name: "Compare" }] : [];
  // Where nothing was ever returned or told, there is no destination to look for attempts in.
  const attempts = progress || problem?.kind !== "nothing" ? [{ id: "attempts", name: "Attempts" }] : [];
  return [...rows, ...run, ...more, ...attempts, { id: "details", name: "Details" }];
}

function Header({ known, isFinal }: { known: Instance; isFinal: boolean }) {
  const { instance, dataset, progress } = known;
  const model = dataset?.model ?? progress?.model;
  return (
    <header class="head">
      <nav aria-label="Where this is" class="crumbs">
        <AirflowLink place={{ dag_id: dagId }}>{dagId}</AirflowLink>
        <span aria-hidden="true">›</span>
        <AirflowLink place={{ run_id: runId }}>{runId}</AirflowLink>
        <span aria-hidden="true">›</span>
        <a href={pageUrl({})}>datasets</a>
      </nav>
      <div class="title">
        <h1>
          {instance.task_display_name}
          {mapIndex >= 0 && <span class="quiet"> [{instance.rendered_map_index ?? mapIndex}]</span>}
        </h1>
        <Badge state={instance.state} />
        {!isFinal && <span class="live">live</span>}
        <span class="grow" />
        <span class="quiet">{instance.operator_name}</span>
        {model && <span class="chip" title="Model">{model}</span>}
        {dataset && <span class="chip" title={`Published ${dataset.created_at}`}>edition {dataset.edition}</span>}
        <AirflowLink place={{ run_id: runId, task_id: taskId, map_index: mapIndex }}>Log</AirflowLink>
      </div>
      <Figures known={known} isFinal={isFinal} />
    </header>
  );
}

interface Counted {
  total: number;
  counts: Record<Fate, number>;
  input_tokens?: number | null | undefined;
  output_tokens?: number | null | undefined;
  cost_usd?: number | null | undefined;
}

function counted(progress: Progress | null, dataset: Dataset | null, isFinal: boolean): Counted | null {
  const from = dataset && (isFinal || !progress?.total) ? dataset : progress;
  if (!from) return null;
  const total = "rows" in from ? from.rows : (from.total ?? 0);
  const counts = { ok: from.ok ?? 0, unparsed: from.unparsed ?? 0, failed: from.failed ?? 0, skipped: from.skipped ?? 0 };
  return { total, counts, input_tokens: from.input_tokens, output_tokens: from.output_tokens, cost_usd: from.cost_usd };
}

function Figures({ known, isFinal }: { known: Instance; isFinal: boolean }) {
  const { progress, dataset, instance } = known;
  const figures = counted(progress, dataset, isFinal);
  if (!figures || (!figures.total && !dataset)) return null;
  const { counts, total } = figures;
  const done = counts.ok + counts.unparsed + counts.failed + counts.skipped;
  const running = !isFinal && instance.state === "running";
  const asked = total - counts.skipped;
  const paid = progress?.paid;
  const tokens = (figures.input_tokens ?? 0) + (figures.output_tokens ?? 0);
  const tokenBudget = progress?.max_total_tokens
    ? `${compact((paid?.input_tokens ?? 0) + (paid?.output_tokens ?? 0))} of ${compact(progress.max_total_tokens)}`
    : `${compact(figures.input_tokens)} in, ${compact(figures.output_tokens)} out`;
  const costBudget = progress?.max_cost_usd
    ? `${dollars(paid?.cost_usd ?? figures.cost_usd)} of ${dollars(progress.max_cost_usd)}`
    : costHint(figures.cost_usd, done, running);
  return (
    <>
      <FateBar counts={counts} total={total} />
      <dl class="tiles">
        <Tile label="Rows" value={done === total ? count(total) : `${count(done)} / ${count(total)}`} hint={done < total ? percent(done, total) : `${count(counts.ok)} ok`} />
        {running && <Tile label="Speed" value={`${compactSpeed(progress?.rows_per_s)} rows/s`} hint={progress?.phase ?? ""} />}
        {running && <Tile label="Time left" value={seconds(progress?.eta_s)} hint={`${seconds(progress?.elapsed_s)} so far`} />}
        {!running && <Tile label="Duration" value={seconds(instance.duration ?? progress?.elapsed_s)} hint={progress?.rows_per_s ? `${compactSpeed(progress.rows_per_s)} rows/s` : undefined} />}
        {running && <Tile label="In flight" value={count(progress?.in_flight)} hint={`limit ${count(progress?.limit)}`} />}
        <Tile label="Failed" value={count(counts.failed)} hint={percent(counts.failed, asked)} tone={counts.failed ? "failed" : undefined} />
        <Tile label="Unparsed" value={count(counts.unparsed)} hint={percent(counts.unparsed, asked)} tone={counts.unparsed ? "unparsed" : undefined} />
        {counts.skipped > 0 && <Tile label="Skipped" value={count(counts.skipped)} hint="not ok upstream" />}
        {progress?.lost ? <Tile label="Lost" value={count(progress.lost)} hint="candidates" /> : null}
        <Tile label="Tokens" value={compact(tokens)} hint={tokenBudget} title={progress?.max_total_tokens ? "All that was paid, of max_total_tokens" : undefined} />
        <Tile label="Cost" value={tokens || figures.cost_usd ? dollars(figures.cost_usd) : "–"} hint={costBudget} title={progress?.max_cost_usd ? "All that was paid, of max_cost_usd" : undefined} />
      </dl>
    </>
  );
}

function compactSpeed(value: number | undefined): string {
  return value === undefined ? "–" : value >= 100 ? count(Math.round(value)) : value.toFixed(1);
}

function costHint(cost: number | null | undefined, rows: number, running: boolean): string | undefined {
  if (cost === null || cost === undefined) return running ? "not told yet" : "no price known";
  // Of nothing, nothing was paid yet, or the price is not known.
  return rows && cost ? `${dollars((1000 * cost) / rows)} / 1,000 rows` : undefined;
}

/** What happened, and what to do, where there are no rows to look at. */
function State({ known }: { known: Instance }) {
  const { instance, problem, progress, dataset } = known;
  const state = instance.state;
  if (dataset) {
    const stale = state !== "success" && state !== "running";
    if (dataset.rows === 0) return <Notice problem={{ kind: "empty", title: "The dataset has no rows.", advice: "The source had none, or none were left of it. It is published, and what reads it gets its columns." }} />;
    if (stale) return <Notice tone="warning" problem={{ kind: "earlier", title: "This is what the task instance published before.", advice: "Its last attempt has not replaced it." }} />;
    return null;
  }
  if (!problem || problem.kind !== "nothing") return problem ? <Notice tone="error" problem={problem} /> : null;
  switch (state) {
    case null:
    case "none":
    case "scheduled":
    case "queued":
      return <Notice problem={{ kind: "waiting", title: "The task has not begun yet.", advice: "Its figures appear here as soon as it does; this page looks again by itself." }} />;
    case "running":
    case "restarting":
      return progress?.total ? null : <Notice problem={{ kind: "starting", title: "The task has begun.", advice: "It is opening its source. Figures follow within seconds." }} />;
    case "up_for_retry":
    case "up_for_reschedule":
      return (
        <Notice tone="warning" problem={{ kind: "retry", title: "The last attempt has ended; Airflow will start another.", advice: "What was answered is kept and will not be paid again." }}>
          <LastError known={known} />
        </Notice>
      );
    case "failed":
      return (
        <Notice
          tone="error"
          problem={{
            kind: "failed",
            title: "The task failed, and nothing is published.",
            advice: "The answers so far are kept: clear the task instance, and it goes on from them. A row is only shown when all are published.",
          }}
        >
          <LastError known={known} />
          <p>
            <a href={airflowUrl({ run_id: runId, task_id: taskId, map_index: mapIndex })}>Open the log</a>
          </p>
        </Notice>
      );
    case "skipped":
    case "upstream_failed":
      return <Notice problem={{ kind: "notrun", title: `The task did not run: ${state.replace("_", " ")}.`, advice: "Look at the tasks before it, under Details." }} />;
    default:
      return <Notice problem={problem} />;
  }
}

/** What the last try failed with, from its log. */
function LastError({ known }: { known: Instance }) {
  const { instance, progress } = known;
  const loaded = useLoad(`${instance.try_number}-${instance.state}`, (signal) => get<{ error: string | null }>("failure", {}, signal));
  if (loaded.value?.error) return <pre class="quote">{loaded.value.error}</pre>;
  return <p class="quiet">{progress?.error ? `It ended with ${progress.error}. ` : ""}{loaded.error || loaded.value ? "Its log says why." : "Looking into its log …"}</p>;
}
