// The datasets of one run of a DAG.
import { useEffect, useState } from "preact/hooks";
import { dagId, get, type Line, pageUrl, runId } from "./api";
import { count, dollars, seconds } from "./format";
import { AirflowLink, Badge, Failure, FateBar, Notice, usePoll, Waiting } from "./parts";

const EVERY = 4000;
const OVER = new Set(["success", "failed", "skipped", "upstream_failed", "removed"]);

export function RunPage() {
  const [known, setKnown] = useState<{ instances: Line[]; more: number } | null>(null);
  const [error, setError] = useState<unknown>(null);
  const load = async () => {
    try {
      setKnown(await get("run"));
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => {
    document.title = `${runId} – Datasets`;
    void load();
  }, []);
  const isFinal = known !== null && known.instances.length > 0 && known.instances.every((line) => OVER.has(line.state ?? ""));
  usePoll(load, isFinal && !error ? null : EVERY);
  if (!known) return <main>{error ? <Failure error={error} retry={load} /> : <Waiting what="Asking Airflow …" />}</main>;
  return (
    <main>
      <header class="head">
        <nav aria-label="Where this is" class="crumbs">
          <AirflowLink place={{ dag_id: dagId }}>{dagId}</AirflowLink>
          <span aria-hidden="true">›</span>
          <AirflowLink place={{ run_id: runId }}>{runId}</AirflowLink>
        </nav>
        <div class="title">
          <h1>Datasets of this run</h1>
        </div>
      </header>
      {error ? <Failure error={error} retry={load} /> : null}
      {known.instances.length === 0 ? (
        <Notice problem={{ kind: "none", title: "No task of airflow-distil has begun in this run.", advice: "Each one appears here when it begins. Tasks of other packages have no page." }} />
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Datasets">
          <table class="plain lines">
            <thead>
              <tr>
                <th scope="col">Task</th>
                <th scope="col">State</th>
                <th scope="col">Rows</th>
                <th scope="col" class="number">Failed</th>
                <th scope="col" class="number">Unparsed</th>
                <th scope="col">Model</th>
                <th scope="col" class="number">Cost</th>
                <th scope="col" class="number">Took</th>
              </tr>
            </thead>
            <tbody>
              {known.instances.map((line) => (
                <LineRow key={`${line.task_id}-${line.map_index}`} line={line} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {known.more > 0 && <p class="quiet">{count(known.more)} more task instances are not shown here; each has a page behind its link “Dataset”.</p>}
    </main>
  );
}

function LineRow({ line }: { line: Line }) {
  const figures = line.summary ?? line.progress;
  const total = line.summary?.rows ?? line.progress?.total ?? 0;
  const counts = { ok: figures?.ok ?? 0, unparsed: figures?.unparsed ?? 0, failed: figures?.failed ?? 0, skipped: figures?.skipped ?? 0 };
  const done = counts.ok + counts.unparsed + counts.failed + counts.skipped;
  return (
    <tr>
      <th scope="row">
        <a href={pageUrl({ task_id: line.task_id, map_index: line.map_index })}>
          {line.task_id}
          {line.map_index >= 0 ? ` [${line.rendered_map_index ?? line.map_index}]` : ""}
        </a>
      </th>
      <td>
        <Badge state={line.state} />
      </td>
      <td class="barcell">
        <span>{done === total ? count(total) : `${count(done)} / ${count(total)}`}</span>
        <FateBar counts={counts} total={total} />
      </td>
      <td class="number">{count(counts.failed)}</td>
      <td class="number">{count(counts.unparsed)}</td>
      <td class="foreign">{line.summary?.model ?? line.progress?.model ?? "–"}</td>
      <td class="number">{dollars(line.summary?.cost_usd)}</td>
      <td class="number">{seconds(line.duration)}</td>
    </tr>
  );
}
